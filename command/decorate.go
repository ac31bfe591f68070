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

// conflictTries is how often a command reads and decides anew because another
// append to its stream came first. Each lost race is another's progress, so
// this many in a row is a crowd on one stream, which is told so.
const conflictTries = 20

// invocation is one run of a command.
type invocation struct {
	user auth.Identity
	origin.Origin
}

// handle carries out a command of type C.
type handle[C, R any] func(ctx context.Context, by *invocation, c C) (R, error)

// decorate adds to a command what all of them need: a span, the tries again
// after a lost race, counts and durations, and errors that a client may see.
// Its errors are problems; lostRace is the one for a race lost every time.
func decorate[C, R any](m *metrics, name string, lostRace *problem.Error, h handle[C, R]) func(context.Context, auth.Identity, C) (R, error) {
	observe := m.command(name)
	return func(ctx context.Context, user auth.Identity, c C) (R, error) {
		start := time.Now()
		ctx, span := telemetry.Start(ctx, name)
		by := invocation{user, origin.Origin{Actor: user.Sub.String()}}
		r, err := h(ctx, &by, c)
		for try := 1; decidedOnThePast(err) && try < conflictTries; try++ {
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

// decidedOnThePast says whether an append was refused because another came
// first. The claims may notice before the versions do: what a state allows, they
// refuse only where it is no longer the state.
func decidedOnThePast(err error) bool {
	return errors.Is(err, eventstore.ErrConflict) || errors.Is(err, claims.ErrFewerUnits) || errors.Is(err, claims.ErrNotActive) ||
		errors.Is(err, claims.ErrAcquiredSince) || payments.DecidedOnThePast(err)
}
