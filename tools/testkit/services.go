package testkit

import (
	"context"
	"log/slog"
	"net"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dopaminestore/dopamine/tools/devservices"
)

// server is a server that a keeper runs.
type server interface {
	URL() string
	Kind() string
	Done() <-chan struct{}
	Stop(context.Context) error
}

// service defines how a shared server is started and probed.
type service struct {
	start func(ctx context.Context, dir string, log *slog.Logger) (server, error)
	probe func(ctx context.Context, url string) error
}

var services = map[string]service{
	"postgres": {start: startPostgres, probe: probePostgres},
	"redis":    {start: startRedis, probe: probeRedis},
	"kafka":    {start: startKafka, probe: probeKafka},
}

// FsyncVariable, if set, makes the shared Postgres write commits to disk. For a benchmark also set
// a separate TMPDIR, so that it does not use a server started by other runs.
const FsyncVariable = "DOPAMINE_TEST_FSYNC"

func startPostgres(ctx context.Context, dir string, log *slog.Logger) (server, error) {
	return devservices.StartPostgres(ctx, devservices.PostgresOptions{Dir: dir, NoFsync: os.Getenv(FsyncVariable) == "", Disposable: true, Log: log,
		Settings: map[string]string{"max_connections": "400"}})
}

func probePostgres(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func startRedis(ctx context.Context, dir string, log *slog.Logger) (server, error) {
	return devservices.StartRedis(ctx, devservices.RedisOptions{Dir: dir, Real: true, Log: log})
}

func probeRedis(ctx context.Context, url string) error {
	opts, err := redis.ParseURL(url)
	if err != nil {
		return err
	}
	// go-redis logs each refused connection.
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", opts.Addr)
	if err != nil {
		return err
	}
	_ = conn.Close()
	client := redis.NewClient(opts)
	defer func() { _ = client.Close() }()
	return client.Ping(ctx).Err()
}

func startKafka(ctx context.Context, dir string, log *slog.Logger) (server, error) {
	return devservices.StartKafka(ctx, devservices.KafkaOptions{Dir: dir, Log: log})
}

func probeKafka(ctx context.Context, addr string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Ping(ctx)
}
