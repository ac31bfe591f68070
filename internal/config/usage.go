package config

import (
	"context"
	"errors"
	"strings"

	"github.com/urfave/cli/v3"
)

// UsageStatus is the exit status for a wrong or missing setting.
const UsageStatus = 2

// UsageError describes what is wrong with the invocation of the program, and what would be right.
// Each problem is one line.
type UsageError struct{ Problems []string }

// Usage returns a UsageError with one problem.
func Usage(problem string) *UsageError { return &UsageError{[]string{problem}} }

// Error returns the problems, one per line.
func (e *UsageError) Error() string { return strings.Join(e.Problems, "\n") }

// ExitCode returns UsageStatus.
func (e *UsageError) ExitCode() int { return UsageStatus }

// OnUsageError is for every command's field of that name: a flag that does not exist or lacks its
// value becomes a UsageError.
func OnUsageError(_ context.Context, cmd *cli.Command, err error, _ bool) error {
	var usage *UsageError
	if errors.As(err, &usage) {
		return err
	}
	return Usage(err.Error() + "; see " + cmd.FullName() + " --help")
}
