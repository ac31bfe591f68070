package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/redis"
)

// askedWithin is how long Redis or Kafka may take to answer a health check.
const askedWithin = time.Second

// required makes the whole DOWN where the component is.
func required(c httpapi.Check) httpapi.Check {
	c.Required = true
	return c
}

func databaseCheck(pool *pgxpool.Pool) httpapi.Check {
	return required(httpapi.Check{Name: "database", Probe: httpapi.PingCheck(pool.Ping)})
}

func gateCheck(gate *redis.Gate) httpapi.Check {
	return required(httpapi.Check{Name: "redis", Probe: httpapi.PingCheck(gate.Ping)})
}

// optionalChecks are of what an API was given an address for and serves without.
func optionalChecks(redisURLs, brokers []string) []httpapi.Check {
	var checks []httpapi.Check
	if len(redisURLs) > 0 {
		checks = append(checks, redisCheck(redisURLs))
	}
	if len(brokers) > 0 {
		checks = append(checks, kafkaCheck(brokers))
	}
	return checks
}

// redisCheck is for who has no gate: one of the nodes answers. It opens a
// connection each time: a health check asks every few seconds.
func redisCheck(urls []string) httpapi.Check {
	return httpapi.Check{Name: "redis", Probe: httpapi.PingCheck(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, askedWithin)
		defer cancel()
		var errs []error
		for _, u := range urls {
			err := pingRedis(ctx, u)
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
		return fmt.Errorf("no node of Redis answers: %w", errors.Join(errs...))
	})}
}

func pingRedis(ctx context.Context, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	q := u.Query()
	q.Del("master_name") // a Sentinel answers as well
	u.RawQuery = q.Encode()
	opts, err := goredis.ParseURL(u.String())
	if err != nil {
		return err
	}
	opts.MaxRetries, opts.PoolSize, opts.ContextTimeoutEnabled = -1, 1, true
	client := goredis.NewClient(opts)
	return errors.Join(client.Ping(ctx).Err(), client.Close())
}

func kafkaCheck(brokers []string) httpapi.Check {
	return httpapi.Check{Name: "kafka", Probe: httpapi.PingCheck(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, askedWithin)
		defer cancel()
		return kafka.Ping(ctx, brokers)
	})}
}
