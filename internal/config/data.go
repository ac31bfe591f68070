package config

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"
)

// namesFile has the settings whose value is a file, by flag name.
var namesFile = map[string]bool{KafkaCA.Name: true, KafkaCert.Name: true, KafkaKey.Name: true, SchemaRegistryCA.Name: true, JWTKey.Name: true, TokenKey.Name: true}

// EnvFile is the file in the data folder in which dev records the addresses of its services.
const EnvFile = "dopamine.env"

// FromData is the Before of a command that can use a dev's data folder. Settings for which neither
// flag nor variable is given get the value in dopamine.env. If the folder is named by --data or its
// variable, it must have the file. If the default folder is used, it counts only if none of the
// command's settings in the file was given otherwise, because mixing the settings of two systems is
// never intended.
func FromData(ctx context.Context, cmd *cli.Command) (context.Context, error) {
	return fromData(ctx, cmd, true)
}

// FromDataIfThere is FromData of a command that keeps its data in the folder: the
// folder need not be that of a dev, nor exist.
func FromDataIfThere(ctx context.Context, cmd *cli.Command) (context.Context, error) {
	return fromData(ctx, cmd, false)
}

func fromData(ctx context.Context, cmd *cli.Command, required bool) (context.Context, error) {
	named := cmd.IsSet(Data.Name) && cmd.String(Data.Name) != ""
	dir := cmd.String(Data.Name)
	if dir == "" {
		dir = Data.Default
	}
	values, err := ReadEnvFile(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !(named && required):
		return ctx, nil
	case err != nil:
		return ctx, Usage(fmt.Sprintf("--%s (%s) is %q: %v; give %s", Data.Name, Data.Variable(), dir, err, Data.Right))
	}
	var open []string
	for _, f := range cmd.Flags {
		name := f.Names()[0]
		if _, ok := values[name]; !ok || name == Data.Name {
			continue
		}
		if cmd.IsSet(name) && cmd.String(name) != "" || cmd.String(name+fileSuffix) != "" {
			if !named {
				return ctx, nil
			}
			continue
		}
		open = append(open, name)
	}
	for _, name := range open {
		if err := cmd.Set(name, values[name]); err != nil {
			return ctx, fmt.Errorf("take --%s from %s: %w", name, filepath.Join(dir, EnvFile), err)
		}
	}
	return ctx, nil
}

// ReadEnvFile reads dopamine.env in the folder: lines of VARIABLE=value, with the value plain or in
// double quotes. Empty lines, comments (#) and unknown variables are skipped. The result is keyed
// by flag name. File names relative to the folder are returned with the folder prepended.
func ReadEnvFile(dir string) (map[string]string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, EnvFile))
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		variable, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("%s, line %d: not VARIABLE=value", EnvFile, n)
		}
		variable, ours := strings.CutPrefix(strings.TrimSpace(variable), variablePrefix)
		if !ours {
			continue
		}
		value = strings.TrimSpace(value)
		if strings.HasPrefix(value, `"`) {
			if value, err = strconv.Unquote(value); err != nil {
				return nil, fmt.Errorf("%s, line %d: a quoted value that cannot be read", EnvFile, n)
			}
		}
		if value == "" {
			continue
		}
		name := strings.ToLower(strings.ReplaceAll(variable, "_", "-"))
		if namesFile[name] && !filepath.IsAbs(value) {
			value = filepath.Join(dir, value)
		}
		values[name] = value
	}
	return values, lines.Err()
}

// WriteEnvFile writes dopamine.env, to be read with ReadEnvFile: each setting with its value,
// without empty ones. The file may contain passwords, so only its owner can read it. It is replaced
// atomically.
func WriteEnvFile(dir string, values map[*Setting]string) error {
	var lines []string
	for s, v := range values {
		if v != "" {
			lines = append(lines, s.Variable()+"="+v+"\n")
		}
	}
	slices.Sort(lines)
	next := filepath.Join(dir, EnvFile+".new")
	if err := os.WriteFile(next, []byte(strings.Join(lines, "")), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", EnvFile, err)
	}
	if err := os.Rename(next, filepath.Join(dir, EnvFile)); err != nil {
		return fmt.Errorf("replace %s: %w", EnvFile, err)
	}
	return nil
}
