package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/postgres"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/redis"
)

const (
	// waitingLogInterval is the interval at which a process that waits for a service logs that.
	waitingLogInterval = 5 * time.Second
	// tryTimeout bounds one try of await: a service may accept a connection and never respond.
	tryTimeout = 10 * time.Second
)

// await retries a step of the process's start while the service is unavailable, until
// --startup-timeout has passed since the process began. Any other error is returned immediately: a
// wrong password does not become right by waiting. The context of a try ends after tryTimeout, and
// with --startup-timeout; what try opens must not depend on it afterwards.
func (p *parts) await(ctx context.Context, service string, try func(context.Context) error) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 2*time.Second
	var logged time.Time
	for {
		err := p.tryOnce(ctx, try)
		if err == nil || !isAway(err) || ctx.Err() != nil {
			return err
		}
		if !time.Now().Before(p.startBy) {
			return fmt.Errorf("%s did not become available within --startup-timeout: %w", service, err)
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

// tryOnce calls try with a context that ends after tryTimeout, and not after startBy unless that has
// passed already.
func (p *parts) tryOnce(ctx context.Context, try func(context.Context) error) error {
	timeout := tryTimeout
	if left := time.Until(p.startBy); left > 0 {
		timeout = min(timeout, left)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return try(ctx)
}

// storeIdentity returns the event store's identity, and waits for the database as await does.
func (p *parts) storeIdentity(ctx context.Context) (identity eventstore.Identity, err error) {
	err = p.await(ctx, "Postgres", func(ctx context.Context) error {
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
	return errors.Is(err, auth.ErrKeySetUnavailable) || errors.As(err, &network) || errors.Is(err, redis.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}
