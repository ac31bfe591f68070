package topology

import (
	"context"
	"fmt"
	"log/slog"

	goredis "github.com/redis/go-redis/v9"
)

// clientLog writes go-redis' own messages, which it would print to standard error as
// plain text, to slog. The level is debug, because calls return the same errors.
type clientLog struct{}

// Printf implements go-redis' logger.
func (clientLog) Printf(ctx context.Context, format string, args ...any) {
	slog.DebugContext(ctx, fmt.Sprintf(format, args...), "component", "go-redis")
}

// go-redis has one logger for the whole process.
func init() { goredis.SetLogger(clientLog{}) }
