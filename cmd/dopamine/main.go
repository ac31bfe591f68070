// Command dopamine sells limited stock in drops: first come, first served. It contains every
// process of the system; see `dopamine --help` and the README.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is the program. Its exit status is 0, 1 for a failure, 2 for a wrong invocation. If ctx ends,
// that is a request to stop, not a failure.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := &cli.Command{
		Name:                  "dopamine",
		Usage:                 "fair, exact, replayable sales of limited stock",
		Writer:                stdout,
		ErrWriter:             stderr,
		EnableShellCompletion: true,
		Version:               telemetry.ReadBuild().String(),
		OnUsageError:          config.OnUsageError,
		ExitErrHandler:        func(context.Context, *cli.Command, error) {}, // run returns the status
		Action:                refuseUnknown,
		Commands:              subcommands(),
	}
	err := app.Run(ctx, args)
	var usage *config.UsageError
	var quiet quietError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintln(stderr, usage)
		return usage.ExitCode()
	case errors.As(err, &quiet):
		return 1
	default:
		fmt.Fprintln(stderr, "dopamine: "+err.Error())
		return 1
	}
}

func subcommands() []*cli.Command {
	all := []*cli.Command{commandAPICommand(), queryAPICommand(), relayCommand(), projectorCommand(), workerCommand(),
		replayCommand(), parkedCommand(), moneyCommand(), recoverCommand(), migrateCommand(), statusCommand(), fairnessCommand(), tokenCommand(), gatewaySimCommand(),
		rushCommand(), devCommand(), versionCommand(),
	}
	for _, c := range all {
		finish(c)
	}
	return all
}

// finish adds to a command and its subcommands what all of them have.
func finish(c *cli.Command) {
	c.OnUsageError = config.OnUsageError
	if len(c.Commands) == 0 {
		// One list of flags can be given to every command, as one environment can.
		c.Flags = append(c.Flags, config.HiddenSharedFlags(c.Flags)...)
	}
	for _, sub := range c.Commands {
		finish(sub)
	}
	if len(c.Commands) > 0 && c.Action == nil {
		c.Action = refuseUnknown
	}
	action, takes := c.Action, c.ArgsUsage
	c.Action = func(ctx context.Context, cmd *cli.Command) error {
		if takes == "" && len(c.Commands) == 0 && cmd.Args().Present() {
			return config.Usage(fmt.Sprintf("unexpected argument %q: %s takes no arguments", cmd.Args().First(), cmd.Name))
		}
		return action(ctx, cmd)
	}
}

func init() {
	cli.VersionPrinter = func(cmd *cli.Command) { fmt.Fprintln(cmd.Root().Writer, cmd.Root().Version) }
}

// versionCommand prints the same as --version.
func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print version, revision and toolchain of this program",
		Action: func(_ context.Context, cmd *cli.Command) error {
			_, err := fmt.Fprintln(cmd.Root().Writer, telemetry.ReadBuild())
			return err
		},
	}
}

// refuseUnknown returns an error for a command that does not exist. Without any arguments it shows
// the help.
func refuseUnknown(_ context.Context, cmd *cli.Command) error {
	if name := cmd.Args().First(); name != "" {
		return config.Usage(fmt.Sprintf("unknown command %q of %s: `%s --help` lists the commands", name, cmd.Name, cmd.FullName()))
	}
	return cli.ShowSubcommandHelp(cmd)
}

// quietError ends the program with status 1 without a further message.
type quietError struct{}

func (quietError) Error() string { return "" }
