package command

import (
	"context"
	"errors"
	"time"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/problem"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// conflictAttempts is how often a command reads and decides again because another
// append to its stream came first. Each lost race is another's progress, so after
// this many in a row the stream is contended, and the command fails.
const conflictAttempts = 20

// invocation is one execution of a command.
type invocation struct {
	user auth.Identity
	origin.Origin
}

// handle executes a command of type C.
type handle[C, R any] func(ctx context.Context, by *invocation, c C) (R, error)

// decorate adds to a command what all commands need: a span, retries
// after a lost race, counts and durations, and errors for clients.
// Its errors are problems; lostRace is returned if every attempt lost a race.
func decorate[C, R any](m *metrics, name string, lostRace *problem.Error, h handle[C, R]) func(context.Context, auth.Identity, C) (R, error) {
	observe := m.command(name)
	return func(ctx context.Context, user auth.Identity, c C) (R, error) {
		start := time.Now()
		ctx, span := telemetry.Start(ctx, name)
		by := invocation{user, origin.Origin{Actor: user.Sub.String()}}
		r, err := h(ctx, &by, c)
		for try := 1; decidedOnThePast(err) && try < conflictAttempts; try++ {
			observe.retries.Inc()
			r, err = h(ctx, &by, c)
		}
		if decidedOnThePast(err) {
			err = lostRace.Wrap(err)
		}
		err = asProblem(err)
		failure := observe.done(err, time.Since(start))
		telemetry.End(span, failure)
		return r, err
	}
}

// decidedOnThePast reports whether an append was refused because another came
// first. The claims may detect it before the versions do: if the state allows an event, they
// refuse it only if the state has changed.
func decidedOnThePast(err error) bool {
	return errors.Is(err, eventstore.ErrConflict) || errors.Is(err, claims.ErrFewerUnits) || errors.Is(err, claims.ErrNotActive) ||
		errors.Is(err, claims.ErrAcquiredSince) || payments.DecidedOnThePast(err)
}
