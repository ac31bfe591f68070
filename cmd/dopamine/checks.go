package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/redis"
)

func databaseCheck(pool *pgxpool.Pool) httpapi.Check {
	return httpapi.Check{Name: "database", Required: true, Probe: httpapi.PingCheck(pool.Ping)}
}

func redisCheck(gate *redis.Gate) httpapi.Check {
	return httpapi.Check{Name: "redis", Required: true, Probe: httpapi.PingCheck(gate.Ping)}
}

func kafkaCheck(brokers []string) httpapi.Check {
	const within = time.Second
	return httpapi.Check{Name: "kafka", Required: true, Probe: httpapi.PingCheck(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		return kafka.Ping(ctx, brokers)
	})}
}
