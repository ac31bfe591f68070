package command

import (
	"context"
	"errors"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/problem"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// commands are the handlers of all commands: one type each, whose Handle is the command.
type commands struct {
	createProduct  createProductHandler
	updateProduct  updateProductHandler
	deleteProduct  deleteProductHandler
	cancelSale     cancelSaleHandler
	acquireSlot    acquireSlotHandler
	releaseSlot    releaseSlotHandler
	startPayment   startPaymentHandler
	notifyPayment  notifyPaymentHandler
	cancelPayment  cancelPaymentHandler
	refundPayment  refundPaymentHandler
	resolvePayment resolvePaymentHandler
}

const (
	// conflictAttempts is how often a command reads and decides again because another
	// append to its stream came first. Each lost race is another's progress, so after
	// this many in a row the stream is contended, and the command fails.
	conflictAttempts = 20
	// ownRetries is for commands that retry lost races themselves: acquireSlot, which
	// corrects the gate before each retry, and the transitions of package payments.
	ownRetries = 1
)

// newCommands wires the commands with the retry policy of each.
func newCommands(s *services) commands {
	with := func(name string, attempts int, lostRace *problem.Error) command {
		return command{services: s, policy: policy{name, attempts, lostRace}, observe: s.metrics.command(name)}
	}
	return commands{
		createProduct:  createProductHandler{with("CreateProduct", conflictAttempts, errUpdateRace)},
		updateProduct:  updateProductHandler{with("UpdateProduct", conflictAttempts, errUpdateRace)},
		deleteProduct:  deleteProductHandler{with("DeleteProduct", conflictAttempts, errDeleteRace)},
		cancelSale:     cancelSaleHandler{with("CancelSale", conflictAttempts, errUpdateRace)},
		acquireSlot:    acquireSlotHandler{with("AcquireSlot", ownRetries, errUnavailable)},
		releaseSlot:    releaseSlotHandler{with("ReleaseSlot", conflictAttempts, errUnavailable)},
		startPayment:   startPaymentHandler{with("StartPayment", conflictAttempts, errUnavailable)},
		notifyPayment:  notifyPaymentHandler{with("NotifyPayment", ownRetries, errUnavailable)},
		cancelPayment:  cancelPaymentHandler{with("CancelPayment", ownRetries, errUnavailable)},
		refundPayment:  refundPaymentHandler{with("RefundPayment", ownRetries, errUnavailable)},
		resolvePayment: resolvePaymentHandler{with("ResolvePayment", ownRetries, errUnavailable)},
	}
}

// command is what all handlers embed.
type command struct {
	*services
	policy  policy
	observe *commandMetrics
}

// policy is the name of a command in traces and metrics, how often it is executed if
// another append came first, and the problem if it lost the race every time.
type policy struct {
	name     string
	attempts int
	lostRace *problem.Error
}

// base returns the command that a handler embeds.
func (c command) base() command { return c }

// handler executes commands of type C.
type handler[C, R any] interface {
	Handle(ctx context.Context, by *invocation, c C) (R, error)
	base() command
}

// invocation is one execution of a command.
type invocation struct {
	user auth.Identity
	origin.Origin
}

// execute runs a command for the caller of a route, with what all commands need: a span,
// retries after a lost race, counts and durations. Its errors are problems.
func execute[C, R any](c echo.Context, h handler[C, R], cmd C) (R, error) {
	start, user, base := time.Now(), caller(c), h.base()
	ctx, span := telemetry.Start(c.Request().Context(), base.policy.name)
	by := invocation{user, origin.Origin{Actor: user.Sub.String()}}
	r, err := h.Handle(ctx, &by, cmd)
	for attempt := 1; decidedOnThePast(err) && attempt < base.policy.attempts; attempt++ {
		base.observe.retries.Inc()
		r, err = h.Handle(ctx, &by, cmd)
	}
	if decidedOnThePast(err) {
		err = base.policy.lostRace.Wrap(err)
	}
	err = asProblem(err)
	telemetry.End(span, base.observe.done(err, time.Since(start)))
	return r, err
}

// decidedOnThePast reports whether an append was refused because another came
// first. The claims may detect it before the versions do: if the state allows an event, they
// refuse it only if the state has changed.
func decidedOnThePast(err error) bool {
	return errors.Is(err, eventstore.ErrConflict) || errors.Is(err, claims.ErrFewerUnits) || errors.Is(err, claims.ErrNotActive) ||
		errors.Is(err, claims.ErrAcquiredSince) || payments.DecidedOnThePast(err)
}
