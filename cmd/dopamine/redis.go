package main

import (
	"context"

	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/redis/topology"
)

// redisServer is the configuration of the connection to Redis.
type redisServer struct {
	urls []string
	opts redis.Options
}

// redisOf reads the settings of Redis, and refuses URLs that cannot be those of one Redis.
func redisOf(r *config.Reader) redisServer {
	s := redisServer{urls: r.RedisURLs(), opts: redis.Options{CA: r.TLS(config.RedisCA).RootCAs, KeyPrefix: r.String(config.RedisKeyPrefix)}}
	if len(s.urls) > 0 {
		if err := topology.CheckURLs(s.urls); err != nil {
			r.Refuse(config.RedisURL, "cannot be used: "+err.Error())
		}
	}
	if err := redis.CheckKeyPrefix(s.opts.KeyPrefix); err != nil {
		r.Refuse(config.RedisKeyPrefix, err.Error())
	}
	return s
}

// health reports how many masters serve, over new connections: for processes without a gate.
func (s redisServer) health(ctx context.Context) (serving, all int, err error) {
	return redis.CheckHealth(ctx, s.urls, s.opts)
}
