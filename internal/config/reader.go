package config

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// Reader reads the settings of a command and collects the errors. For a wrong value each method
// returns a harmless one; check Err before using any.
type Reader struct {
	cmd      *cli.Command
	problems []string
	seen     map[string]bool
}

// From returns a Reader of the command's settings.
func From(cmd *cli.Command) *Reader { return &Reader{cmd: cmd, seen: map[string]bool{}} }

// Command returns the command whose settings are read, for its own flags.
func (r *Reader) Command() *cli.Command { return r.cmd }

// Err returns a *UsageError with all wrong and missing settings, nil if there are none.
func (r *Reader) Err() error {
	if len(r.problems) == 0 {
		return nil
	}
	return &UsageError{r.problems}
}

// Refuse records a problem that the caller has found with the setting.
func (r *Reader) Refuse(s *Setting, what string) {
	what = strings.Join(strings.Fields(what), " ") // one line, even if an error has several
	text := "--" + s.Name + " (" + s.Variable() + ") " + what
	if s.Right != "" {
		text += "; give " + s.Right
	}
	if !r.seen[text] {
		r.seen[text] = true
		r.problems = append(r.problems, text)
	}
}

// RefuseFlag records a problem with one of the command's own flags, which has no variable.
func (r *Reader) RefuseFlag(name, what string) {
	r.problems = append(r.problems, "--"+name+" "+what)
}

// Has reports whether the command uses the setting.
func (r *Reader) Has(s *Setting) bool {
	return slices.ContainsFunc(r.cmd.VisibleFlags(), func(f cli.Flag) bool { return slices.Contains(f.Names(), s.Name) })
}

// Require records each of the settings that is missing.
func (r *Reader) Require(settings ...*Setting) {
	for _, s := range settings {
		if r.String(s) == "" {
			r.Refuse(s, "is missing")
		}
	}
}

// String returns the setting's text, or its default. The text of a secret setting may come from its
// file instead. Giving both is refused, because it is not clear which one is meant.
func (r *Reader) String(s *Setting) string {
	value := strings.TrimSpace(r.cmd.String(s.Name))
	if s.Secret {
		if name := strings.TrimSpace(r.cmd.String(s.file().Name)); name != "" {
			if value != "" {
				r.Refuse(s.file(), "and --"+s.Name+" ("+s.Variable()+") are both given")
				return value
			}
			return r.fromFile(s, name)
		}
	}
	if value != "" {
		return value
	}
	return s.Default
}

// maxSecretFile is the maximum size of a secret's file in bytes.
const maxSecretFile = 64 << 10

// fromFile reads the value of a secret setting from a file, without surrounding white space. The
// value never appears in a message.
func (r *Reader) fromFile(s *Setting, name string) string {
	f, err := os.Open(name)
	if err != nil {
		r.Refuse(s.file(), "cannot be read: "+err.Error())
		return ""
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	value := strings.TrimSpace(string(content))
	switch {
	case err != nil:
		r.Refuse(s.file(), "cannot be read: "+err.Error())
	case len(content) > maxSecretFile:
		r.Refuse(s.file(), fmt.Sprintf("names %s, which has more than %d bytes", name, maxSecretFile))
	case value == "":
		r.Refuse(s.file(), fmt.Sprintf("names %s, which is empty", name))
	default:
		return value
	}
	return ""
}

// Bool reports whether a switch is on.
func (r *Reader) Bool(s *Setting) bool { return r.cmd.Bool(s.Name) }

// List returns the parts of a comma-separated setting.
func (r *Reader) List(s *Setting) []string {
	var parts []string
	for part := range strings.SplitSeq(r.String(s), ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

// Int returns a whole number from low to high.
func (r *Reader) Int(s *Setting, low, high int) int {
	text := r.String(s)
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		r.Refuse(s, fmt.Sprintf("is %q", text))
		return low
	}
	return n
}

// Share returns a number from 0 to 1.
func (r *Reader) Share(s *Setting) float64 {
	text := r.String(s)
	share, err := strconv.ParseFloat(text, 64)
	if err != nil || !(share >= 0 && share <= 1) { // NaN is neither
		r.Refuse(s, fmt.Sprintf("is %q", text))
		return 0
	}
	return share
}

// Duration returns a duration of at least low.
func (r *Reader) Duration(s *Setting, low time.Duration) time.Duration {
	text := r.String(s)
	d, err := time.ParseDuration(text)
	if err != nil || d < low {
		r.Refuse(s, fmt.Sprintf("is %q", text))
		return low
	}
	return d
}

// Addr returns a host:port to listen on.
func (r *Reader) Addr(s *Setting) string {
	text := r.String(s)
	if !hostPort(text, 0) {
		r.Refuse(s, fmt.Sprintf("is %q", text))
	}
	return text
}

// OptionalAddr returns a host:port to listen on, "" if none is given.
func (r *Reader) OptionalAddr(s *Setting) string {
	if r.String(s) == "" {
		return ""
	}
	return r.Addr(s)
}

// hostPort reports whether the text is host:port with a port of at least lowest.
func hostPort(text string, lowest int) bool {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(port)
	return err == nil && n >= lowest && n <= 65535
}

// URL returns a URL with a host and one of the schemes, "" if none is given.
func (r *Reader) URL(s *Setting, schemes ...string) string {
	text := r.String(s)
	if text != "" && !validURL(text, schemes) {
		r.Refuse(s, "is not such a URL")
	}
	return text
}

// URLs returns a comma-separated list of URLs that URL accepts.
func (r *Reader) URLs(s *Setting, schemes ...string) []string {
	list := r.List(s)
	for _, text := range list {
		if !validURL(text, schemes) {
			// The text may contain a password, so it is not repeated.
			r.Refuse(s, "contains an entry that is not such a URL")
		}
	}
	return list
}

func validURL(text string, schemes []string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	for _, scheme := range schemes {
		if u.Scheme == scheme {
			// postgres and redis may name a socket instead of a host
			return u.Host != "" || u.Scheme == "unix" || u.Query().Get("host") != ""
		}
	}
	return false
}

// Logging returns the format, "" for the default of the output, and the level.
func (r *Reader) Logging() (telemetry.LogFormat, slog.Level) {
	format := telemetry.LogFormat(r.String(LogFormat))
	if format != "" && format != telemetry.JSON && format != telemetry.Text {
		r.Refuse(LogFormat, fmt.Sprintf("is %q", format))
	}
	level, err := telemetry.ParseLevel(r.String(LogLevel))
	if err != nil {
		r.Refuse(LogLevel, fmt.Sprintf("is %q", r.String(LogLevel)))
	}
	return format, level
}
