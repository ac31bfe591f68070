package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/redis"
)

// probeTimeout bounds a probe of Redis.
const probeTimeout = time.Second

// required returns a check that makes the whole process DOWN if the component is.
func required(c httpapi.Check) httpapi.Check {
	c.Required = true
	return c
}

func databaseCheck(pool *pgxpool.Pool) httpapi.Check {
	return required(httpapi.Check{Name: "database", Probe: httpapi.PingCheck(pool.Ping)})
}

// storeCheck is like databaseCheck for the database of the event store, of a process whose own
// database may be another one.
func storeCheck(pool *pgxpool.Pool) httpapi.Check {
	return required(httpapi.Check{Name: "database", Probe: func(ctx context.Context) httpapi.ComponentHealth {
		if pool.Ping(ctx) != nil {
			return httpapi.ComponentHealth{Status: httpapi.Down, Details: []string{"the event store's database does not respond"}}
		}
		return httpapi.ComponentHealth{Status: httpapi.Up}
	}})
}

// clockChecks returns checks that compare this process's clock with those of the services it uses,
// and report products that are sold through another Redis. database is the pool of the process's
// main database, store that of the event store, which may be another one; store and gate may be nil.
func clockChecks(r prometheus.Registerer, database, store *pgxpool.Pool, gate *redis.Gate) []httpapi.Check {
	checks := []httpapi.Check{{Name: "database", Probe: httpapi.ClockCheck(r, "database", func(ctx context.Context) (ahead, uncertainty time.Duration, err error) {
		return databaseSkew(ctx, database)
	})}}
	if store != nil {
		checks = append(checks, httpapi.Check{Name: "database", Probe: httpapi.ClockCheck(r, "event_store", func(ctx context.Context) (ahead, uncertainty time.Duration, err error) {
			return storeSkew(ctx, store)
		})})
	}
	if gate != nil {
		checks = append(checks,
			httpapi.Check{Name: "redis", Probe: httpapi.ClockCheck(r, "redis", gate.ClockSkew)},
			httpapi.Check{Name: "redis", Probe: httpapi.ReasonsCheck(gate.Reasons)})
	}
	return checks
}

// databaseSkew returns how far Postgres' clock is ahead of this process's. The connection is
// acquired first, so that waiting for one does not add to the uncertainty.
func databaseSkew(ctx context.Context, pool *pgxpool.Pool) (ahead, uncertainty time.Duration, err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Release()
	var theirs time.Time
	sent := time.Now()
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&theirs); err != nil {
		return 0, 0, err
	}
	half := time.Since(sent) / 2
	return theirs.Sub(sent.Add(half)), half, nil
}

// storeSkew returns how far the event store's clock is ahead of Postgres'. Times of events never
// decrease: after a clock that ran ahead was corrected, the store's clock waits until the right
// time has caught up, and what is due by it is due early or late.
func storeSkew(ctx context.Context, pool *pgxpool.Pool) (ahead, uncertainty time.Duration, err error) {
	var seconds float64
	err = pool.QueryRow(ctx, `
		select coalesce(greatest(0, extract(epoch from (select recorded_at from events order by position desc limit 1) - clock_timestamp())), 0)::float8`).
		Scan(&seconds)
	return time.Duration(seconds * float64(time.Second)), 0, err
}

func gateCheck(gate *redis.Gate) httpapi.Check {
	return required(httpapi.Check{Name: "redis", Probe: httpapi.PartsCheck(gate.Health)})
}

// pipelineHealth reports why relay and projector do not work as they should, in a process that
// runs them together with the APIs: those are created first.
type pipelineHealth struct {
	parts atomic.Pointer[[]func() []string]
}

func (h *pipelineHealth) set(parts ...func() []string) { h.parts.Store(&parts) }

func (h *pipelineHealth) reasons() (all []string) {
	if parts := h.parts.Load(); parts != nil {
		for _, reasons := range *parts {
			all = append(all, reasons()...)
		}
	}
	return all
}

// optionalChecks returns the checks of services that an API has an address for and can work
// without. reasons is as for kafkaCheck.
func optionalChecks(p *parts, server redisServer, cluster kafka.Cluster, reasons func() []string) []httpapi.Check {
	var checks []httpapi.Check
	if len(server.urls) > 0 {
		checks = append(checks, redisCheck(server))
	}
	if len(cluster.Brokers) > 0 {
		checks = append(checks, kafkaCheck(p, cluster, reasons))
	}
	return checks
}

// redisCheck is for a process that has no gate. It opens connections for each probe,
// which is one a second.
func redisCheck(server redisServer) httpapi.Check {
	return httpapi.Check{Name: "redis", Probe: httpapi.PartsCheck(func(ctx context.Context) (serving, all int, err error) {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		return server.health(ctx)
	})}
}

// kafkaCheck sends an authenticated request over a persistent connection. reasons returns why the
// process does not work as it should although Kafka answers: DEGRADED.
func kafkaCheck(p *parts, cluster kafka.Cluster, reasons func() []string) httpapi.Check {
	pinger := kafka.NewPinger(cluster)
	p.onClose(func(context.Context) error { return pinger.Close() })
	ping := httpapi.PingCheck(pinger.Ping)
	return httpapi.Check{Name: "kafka", Probe: func(ctx context.Context) httpapi.ComponentHealth {
		health := ping(ctx)
		if reasons == nil {
			return health
		}
		if why := reasons(); len(why) > 0 {
			if health.Status == httpapi.Up {
				health.Status = httpapi.Degraded
			}
			health.Details = append(health.Details, why...)
		}
		return health
	}}
}
