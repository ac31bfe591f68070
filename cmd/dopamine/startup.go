package main

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/postgres"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/redis"
)

// waitingLogInterval is the interval at which a process that waits for a service logs that.
const waitingLogInterval = 5 * time.Second

// await retries a step of the process's start while the service is unavailable, until
// --startup-timeout has passed since the process began. Any other error is returned immediately: a
// wrong password does not become right by waiting.
func (p *parts) await(ctx context.Context, service string, try func() error) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 2*time.Second
	var logged time.Time
	for {
		err := try()
		if err == nil || !isAway(err) || ctx.Err() != nil || !time.Now().Before(p.startBy) {
			return err
		}
		if time.Since(logged) >= waitingLogInterval {
			logged = time.Now()
			p.log.Warn("waiting for a service", "service", service, "timeout", time.Until(p.startBy).Round(time.Second).String(), "error", err)
		}
		if sleep.For(ctx, min(wait.NextBackOff(), max(0, time.Until(p.startBy)))) != nil {
			return err
		}
	}
}

// storeIdentity returns the event store's identity, and waits for the database as await does.
func (p *parts) storeIdentity(ctx context.Context) (identity eventstore.Identity, err error) {
	err = p.await(ctx, "Postgres", func() error {
		identity, err = eventstore.NewReader(p.writePool).Identity(ctx)
		return err
	})
	return identity, err
}

// isAway reports whether err means that a service does not respond now, and may later.
func isAway(err error) bool {
	if postgres.Code(err) != "" {
		return postgres.Unavailable(err)
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, redis.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}
