package redis

import (
	"context"
	"fmt"
	"log/slog"

	goredis "github.com/redis/go-redis/v9"
)

// clientLog takes what go-redis says by itself, and would write as plain text to
// standard error. At debug level: what matters of it is the error of a call too.
type clientLog struct{}

// Printf is go-redis' way to log.
func (clientLog) Printf(ctx context.Context, format string, args ...any) {
	slog.DebugContext(ctx, fmt.Sprintf(format, args...), "component", "go-redis")
}

// go-redis has one logger for the whole process.
func init() { goredis.SetLogger(clientLog{}) }
