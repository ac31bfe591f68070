package redis_test

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"net"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	_ "github.com/dopaminestore/dopamine/redis"
)

// The message about an unreachable Redis is part of the JSON log.
func TestClientLog_UsesSlog(t *testing.T) {
	var written bytes.Buffer
	before, output, flags := slog.Default(), log.Writer(), log.Flags()
	slog.SetDefault(slog.New(slog.NewJSONHandler(&written, &slog.HandlerOptions{Level: slog.LevelDebug})))
	defer func() { // slog also redirects package log
		slog.SetDefault(before)
		log.SetOutput(output)
		log.SetFlags(flags)
	}()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	client := goredis.NewClient(&goredis.Options{Addr: address, MaxRetries: -1, DialerRetries: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.Error(t, client.Ping(ctx).Err())
	require.NoError(t, client.Close())
	require.Contains(t, written.String(), `"component":"go-redis"`)
	require.Contains(t, written.String(), "failed to dial")
}
