package command

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/postgres"
	"github.com/dopaminestore/dopamine/internal/problem"
	"github.com/dopaminestore/dopamine/redis"
)

var (
	errNoProduct    = problem.New(problem.ProductNotFound, "there is no product with this id")
	errNoSlot       = problem.New(problem.SlotNotFound, "there is no slot with this id")
	errOverloaded   = problem.New(problem.Overloaded, "more requests are on their way than can be taken; try again")
	errUnavailable  = problem.New(problem.Unavailable, "the request could not be decided now; try again")
	errSoldOut      = problem.New(problem.SoldOut, "every unit is held")
	errSaleEnded    = problem.New(problem.SaleEnded, "the sale has ended")
	errSalePaused   = problem.New(problem.SalePaused, "the sale is paused")
	errNotStarted   = problem.New(problem.SaleNotStarted, "the sale has not started yet")
	errDuplicate    = problem.New(problem.DuplicateSlot, "you hold a slot of this product already")
	errHadSlot      = problem.New(problem.ProductUpdate, "sale date, price and units stand, because the product has had a slot")
	errSaleBegun    = problem.New(problem.ProductUpdate, "price and units stand, because the sale has begun")
	errCancelled    = problem.New(problem.ProductUpdate, "the sale was cancelled: only name and description can change")
	errOpenRefunds  = problem.New(problem.ProductDelete, "the cancelled sale has refunds that are open")
	errTooMany      = problem.New(problem.TooManyPayments, "a slot can have 10 payments")
	errNotPending   = problem.New(problem.PaymentNotPending, "the payment has an outcome")
	errNoRefund     = problem.New(problem.PaymentNotRefundable, "the payment is not a purchase, or is disputed or reversed")
	errExceeds      = problem.New(problem.RefundExceeds, "other refunds cover more of the payment than that leaves")
	errNoItem       = problem.New(problem.NothingToResolve, "no item of the payment can be resolved in this way")
	errUpdateRace   = problem.New(problem.ProductUpdate, "others were changing the product at the same time")
	errLiveSlots    = problem.New(problem.ProductDelete, "the product has an active slot")
	errDeleteRace   = problem.New(problem.ProductDelete, "others were changing the product at the same time")
	errNotOwner     = problem.New(problem.Forbidden, "the slot belongs to someone else")
	errPaying       = problem.New(problem.PaymentInProgress, "a payment of the slot waits for its outcome")
	errNotActive    = problem.New(problem.SlotNotActive, "the slot has ended")
	errNoProductID  = problem.Invalid(problem.Field("productId", "must be a UUID"))
	errNoPayment    = problem.New(problem.PaymentNotFound, "there is no payment of this reference")
	errKeyReused    = problem.New(problem.IdempotencyKeyReused, "the idempotency key was used with another body")
	errCompleted    = problem.New(problem.SlotAlreadyCompleted, "the slot is paid for")
	errExpired      = problem.New(problem.SlotExpired, "the slot has expired")
	errMismatch     = problem.New(problem.AmountMismatch, "amount and currency must be the product's price")
	errEmptyUpdate  = problem.New(problem.InvalidRequest, "the update names nothing to change")
	errPrecondition = problem.New(problem.PreconditionFailed, "the product is not in the state that If-Match names: read it again")
)

// notStarted returns the problem of a buyer who is too early, with the sale date.
func notStarted(d redis.Decision) error {
	return errNotStarted.With("saleDate", apimodel.Time(d.SaleDate))
}

// positioned is a refusal whose reason is in the store, at a position that the
// client can wait for.
type positioned struct {
	problem  *problem.Error
	product  uuid.UUID
	position int64
}

func (e *positioned) Error() string { return e.problem.Error() }
func (e *positioned) Unwrap() error { return e.problem }

func withPosition(p *problem.Error, product uuid.UUID, position int64) error {
	return &positioned{problem: p, product: product, position: position}
}

// asProblem is the only place that converts errors to problems. Unknown errors
// become internal errors.
func asProblem(err error) error {
	var p *problem.Error
	if err == nil || errors.As(err, &p) {
		return err
	}
	var (
		invalid   *domain.InvalidError
		notOwner  *domain.NotOwnerError
		notActive *domain.SlotNotActiveError
		paying    *domain.PaymentInProgressError
		away      *eventstore.UnavailableError
	)
	switch {
	case errors.As(err, &invalid):
		return invalidProblem(invalid)
	case errors.Is(err, domain.ErrNoProduct), errors.Is(err, redis.ErrUnknownProduct), errors.Is(err, claims.ErrGone):
		return errNoProduct.Wrap(err)
	case errors.As(err, &notOwner):
		return errNotOwner.Wrap(err)
	case errors.As(err, &notActive):
		return errNotActive.Wrap(err)
	case errors.As(err, &paying):
		return errPaying.Wrap(err)
	case errors.Is(err, payments.ErrNoSlot):
		return errNoSlot.Wrap(err)
	case errors.Is(err, payments.ErrNoPayment):
		return errNoPayment.Wrap(err)
	case errors.Is(err, payments.ErrKeyReused):
		return errKeyReused.Wrap(err)
	case errors.Is(err, payments.ErrDelayed), errors.Is(err, payments.ErrQuery), avsc.IsNewer(err):
		return errUnavailable.Wrap(err)
	case errors.Is(err, domain.ErrNothingToResolve):
		return errNoItem.Wrap(err)
	case errors.Is(err, domain.ErrSaleBegun), errors.Is(err, claims.ErrSaleBegun):
		return errSaleBegun.Wrap(err)
	case errors.Is(err, domain.ErrSaleCancelled):
		return errCancelled.Wrap(err)
	case errors.Is(err, claims.ErrHadSlot):
		return errHadSlot.Wrap(err)
	case errors.Is(err, eventstore.ErrOverloaded):
		return errOverloaded.Wrap(err)
	case errors.As(err, &away), errors.Is(err, eventstore.ErrClosed), errors.Is(err, redis.ErrUnavailable),
		errors.Is(err, redis.ErrClosed), isUnavailable(err):
		return errUnavailable.Wrap(err)
	}
	return err
}

// asRefusal converts a refusal to pay a slot, or to change a payment, to a
// problem.
func asRefusal(err error) *problem.Error {
	var (
		completed *domain.SlotCompletedError
		expired   *domain.SlotExpiredError
		paying    *domain.PaymentInProgressError
		tooMany   *domain.TooManyPaymentsError
		pending   *domain.PaymentNotPendingError
		no        *domain.PaymentNotRefundableError
		exceeds   *domain.RefundExceedsError
	)
	switch {
	case errors.As(err, &tooMany):
		return errTooMany.Wrap(err)
	case errors.As(err, &pending):
		return errNotPending.Wrap(err)
	case errors.As(err, &no):
		return errNoRefund.Wrap(err)
	case errors.As(err, &exceeds):
		return errExceeds.Wrap(err)
	case errors.As(err, &completed):
		return errCompleted.Wrap(err)
	case errors.As(err, &expired):
		return errExpired.Wrap(err)
	case errors.As(err, &paying):
		return errPaying.Wrap(err)
	}
	return errMismatch.Wrap(err)
}

func invalidProblem(e *domain.InvalidError) error {
	if len(e.Fields) == 0 {
		return errEmptyUpdate
	}
	var v fieldErrors
	for _, f := range e.Fields {
		v.add(f.Field, f.Message)
	}
	return v.err()
}

// isUnavailable reports whether err means the database is unreachable, not that it rejected the query.
func isUnavailable(err error) bool {
	if postgres.Code(err) != "" {
		return postgres.Unavailable(err)
	}
	var network net.Error
	var connect *pgconn.ConnectError
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, &network) || errors.As(err, &connect) || pgconn.SafeToRetry(err)
}
