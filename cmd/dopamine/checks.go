package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

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
	return required(httpapi.Check{Name: "redis", Probe: httpapi.PartsCheck(gate.Reach)})
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

// redisCheck is for who has no gate. It opens connections each time: a health check
// asks every few seconds.
func redisCheck(urls []string) httpapi.Check {
	return httpapi.Check{Name: "redis", Probe: httpapi.PartsCheck(func(ctx context.Context) (serving, all int, err error) {
		ctx, cancel := context.WithTimeout(ctx, askedWithin)
		defer cancel()
		return redis.Ask(ctx, urls)
	})}
}

func kafkaCheck(brokers []string) httpapi.Check {
	return httpapi.Check{Name: "kafka", Probe: httpapi.PingCheck(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, askedWithin)
		defer cancel()
		return kafka.Ping(ctx, kafka.Cluster{Brokers: brokers})
	})}
}
