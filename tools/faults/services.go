package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/tools/devservices"
)

// services are the servers that runs share. Each is started when a scenario first
// needs it, and stays: a run has a separate database and topic, and an empty
// Redis.
type services struct {
	dir       string
	binary    string
	fakes     bool // kfake instead of Apache Kafka where the scenario allows it
	postgres  *devservices.Postgres
	templates map[string]bool // made, by server and name
	redis     *devservices.Redis
	kafka     *devservices.Kafka
	fake      *devservices.Kafka
	runs      int
	restarts  int
	refunds   bool // the program has the admin's refunds
}

func newServices(dir, program string, fakes bool) (*services, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	// As root, Postgres runs as another user, who has to enter the folder.
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			return nil, err
		}
	}
	return &services{dir: dir, binary: program, fakes: fakes}, nil
}

// folder is where a server keeps its data; one that is started again begins without.
func (s *services) folder(name string) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s-%d", name, s.restarts))
}

// committed makes a commit that was answered survive a kill -9 of the server, which
// NoFsync alone does not.
var committed = map[string]string{"synchronous_commit": "on"}

// startPostgres starts the shared server: fsync off, since what is killed here are
// processes, not machines.
func (s *services) startPostgres(ctx context.Context) error {
	if s.postgres != nil {
		return nil
	}
	p, err := devservices.StartPostgres(ctx, devservices.PostgresOptions{Dir: s.folder("postgres"), Disposable: true, NoFsync: true, Settings: committed})
	if err != nil {
		return fmt.Errorf("start Postgres: %w", err)
	}
	s.postgres = p
	return nil
}

// newDatabase makes an empty, migrated database.
func (s *services) newDatabase(ctx context.Context, server *devservices.Postgres, name string) (string, error) {
	conn, err := pgx.Connect(ctx, server.URL())
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	template := fmt.Sprintf("template_%.6x", sha256.Sum256([]byte(server.URL())))
	if !s.templates[server.URL()] {
		if _, err := conn.Exec(ctx, "create database "+template); err != nil {
			return "", err
		}
		if err := migrateBoth(ctx, databaseURL(server.URL(), template)); err != nil {
			return "", err
		}
		if s.templates == nil {
			s.templates = map[string]bool{}
		}
		s.templates[server.URL()] = true
	}
	if _, err := conn.Exec(ctx, "create database "+name+" template "+template); err != nil {
		return "", err
	}
	return databaseURL(server.URL(), name), nil
}

func migrateBoth(ctx context.Context, url string) error {
	return errors.Join(db.MigrateWrite(ctx, url), db.MigrateRead(ctx, url))
}

func databaseURL(server, name string) string {
	u, err := url.Parse(server)
	if err != nil {
		panic(err) // the server's own URL
	}
	u.Path = "/" + name
	return u.String()
}

// startRedis starts the shared Redis, which keeps an append-only file.
func (s *services) startRedis(ctx context.Context) error {
	if s.redis != nil {
		return nil
	}
	r, err := devservices.StartRedis(ctx, devservices.RedisOptions{Dir: s.folder("redis"), Real: true})
	if err != nil {
		return fmt.Errorf("start Redis: %w", err)
	}
	s.redis = r
	return nil
}

// startKafka returns the shared broker: the real one if the scenario hurts Kafka or
// no fake is wanted.
func (s *services) startKafka(ctx context.Context, real bool) (*devservices.Kafka, error) {
	if !real && s.fakes {
		if s.fake == nil {
			k, err := devservices.StartFakeKafka(ctx, devservices.KafkaOptions{})
			if err != nil {
				return nil, fmt.Errorf("start kfake: %w", err)
			}
			s.fake = k
		}
		return s.fake, nil
	}
	if s.kafka == nil {
		k, err := devservices.StartKafka(ctx, devservices.KafkaOptions{Dir: s.folder("kafka")})
		if err != nil {
			return nil, fmt.Errorf("start Kafka: %w", err)
		}
		s.kafka = k
	}
	return s.kafka, nil
}

// stop ends the servers; those that are needed later are started again.
func (s *services) stop(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	if s.kafka != nil {
		_ = s.kafka.Stop(ctx)
	}
	if s.fake != nil {
		_ = s.fake.Stop(ctx)
	}
	if s.redis != nil {
		_ = s.redis.Stop(ctx)
	}
	if s.postgres != nil {
		_ = s.postgres.Stop(ctx)
	}
	s.restarts++
	s.kafka, s.fake, s.redis, s.postgres, s.templates = nil, nil, nil, nil, nil
}

// redisClient talks to one Redis server.
func redisClient(r *devservices.Redis) *goredis.Client {
	return goredis.NewClient(&goredis.Options{Addr: hostOf(r.URL()), MaxRetries: -1, PoolSize: 2})
}

func hostOf(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		panic(err)
	}
	return u.Host
}

// resetRedis empties the server and takes back what a fault has set.
func resetRedis(ctx context.Context, r *devservices.Redis) error {
	c := redisClient(r)
	defer func() { _ = c.Close() }()
	for name, value := range map[string]string{"maxmemory": "0", "min-replicas-to-write": "0"} {
		if err := c.ConfigSet(ctx, name, value).Err(); err != nil {
			return err
		}
	}
	return errors.Join(c.ReplicaOf(ctx, "NO", "ONE").Err(), c.FlushAll(ctx).Err())
}

// deleteTopic removes a topic and waits until it is gone.
func deleteTopic(ctx context.Context, brokers []string, topic string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if _, err := admin.DeleteTopics(ctx, topic); err != nil {
		return err
	}
	return poll(ctx, pollInterval, "topic "+topic+" to be deleted", func() error {
		details, err := admin.ListTopics(ctx, topic)
		if err != nil {
			return err
		}
		if details.Has(topic) && !strings.Contains(fmt.Sprint(details[topic].Err), "UNKNOWN_TOPIC") {
			return errors.New("it is still there")
		}
		return nil
	})
}
