package command

import (
	"context"
	"errors"
	"net/http"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

type cancelPaymentHandler struct{ command }

// Handle requests that a pending payment is cancelled at the gateway.
func (s cancelPaymentHandler) Handle(ctx context.Context, by *invocation, id uuid.UUID) (commandResult[apimodel.Payment], error) {
	changed, err := s.payments.Cancel(ctx, id, callerOf(by.user), &by.Origin)
	return commandResult[apimodel.Payment]{changed.Payment, changed.Product, changed.Position}, stateRefusal(err)
}

type refundPaymentHandler struct{ command }

// Handle makes a refund due.
func (s refundPaymentHandler) Handle(ctx context.Context, by *invocation, c payments.RequestRefund) (commandResult[apimodel.Refund], error) {
	refunded, err := s.payments.RequestRefund(ctx, c, &by.Origin)
	var amount *domain.MoneyError
	if errors.As(err, &amount) {
		var v fieldErrors
		v.add("amount", amount.Message)
		return commandResult[apimodel.Refund]{}, v.err()
	}
	return commandResult[apimodel.Refund]{refunded.Refund, refunded.Product, refunded.Position}, stateRefusal(err)
}

type resolvePaymentHandler struct{ command }

// Handle records an operator's decision.
func (s resolvePaymentHandler) Handle(ctx context.Context, by *invocation, c payments.Resolve) (commandResult[apimodel.Payment], error) {
	changed, err := s.payments.Resolve(ctx, c, &by.Origin)
	if errors.Is(err, domain.ErrNothingToResolve) {
		return commandResult[apimodel.Payment]{}, withPosition(errNoItem.Wrap(err), changed.Product, changed.Position)
	}
	return commandResult[apimodel.Payment]{changed.Payment, changed.Product, changed.Position}, err
}

// stateRefusal adds the position of its reason to a refusal by a payment's state.
func stateRefusal(err error) error {
	var refused *payments.RefusedError
	var invalid *domain.InvalidError
	if !errors.As(err, &refused) || errors.As(err, &invalid) {
		return err
	}
	return withPosition(asRefusal(refused), refused.Product, refused.Position)
}

func (a *API) deletePayment(c echo.Context) error {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return err
	}
	r, err := execute(c, a.commands.cancelPayment, id)
	return answer(c, http.StatusAccepted, "", id, r, err)
}

// refundRequest is the body of POST /v1/payments/{id}/refunds.
type refundRequest struct {
	IdempotencyKey field[httpapi.UUID] `json:"idempotencyKey"`
	Amount         field[number]       `json:"amount"`
	ReturnUnit     field[bool]         `json:"returnUnit"`
	Reason         field[string]       `json:"reason"`
}

const aCode = "a code of A-Z, 0-9 and _, 1 to 64 characters"

func (r refundRequest) command(payment uuid.UUID) (payments.RequestRefund, error) {
	var v fieldErrors
	c := payments.RequestRefund{
		Payment: payment, Key: required(&v, "idempotencyKey", aUUID, r.IdempotencyKey).UUID, Reason: domain.ReasonRequested,
	}
	if amount := optional(&v, "amount", aDecimal, r.Amount); amount != nil {
		c.Amount = &amount.Decimal
		if !amount.IsPositive() {
			v.add("amount", "must be above 0")
		}
	}
	if unit := optional(&v, "returnUnit", aBool, r.ReturnUnit); unit != nil {
		c.ReturnUnit = *unit
	}
	if reason := optional(&v, "reason", aCode, r.Reason); reason != nil {
		c.Reason = code(&v, "reason", *reason)
	}
	return c, v.err()
}

// code returns the upper-case form of a code in a request.
func code(v *fieldErrors, name, text string) string {
	code, ok := domain.Code(text)
	if !ok {
		v.add(name, "must be "+aCode)
	}
	return code
}

func (a *API) postRefund(c echo.Context) error {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return err
	}
	cmd, err := decode(c, func(body refundRequest) (payments.RequestRefund, error) { return body.command(id) })
	if err != nil {
		return err
	}
	r, err := execute(c, a.commands.refundPayment, cmd)
	if err == nil {
		c.Response().Header().Set("Location", "/v1/payments/"+id.String()+"/refunds")
	}
	return answer(c, http.StatusCreated, "", id, r, err)
}

// resolutionRequest is the body of POST /v1/payments/{id}/resolution.
type resolutionRequest struct {
	Action field[string] `json:"action"`
	Note   field[string] `json:"note"`
}

const anAction = "RETRY, REFUNDED_ELSEWHERE, NOTHING_TAKEN or ACCEPT"

func (r resolutionRequest) command(payment uuid.UUID) (payments.Resolve, error) {
	var v fieldErrors
	c := payments.Resolve{Payment: payment, Action: domain.ResolveAction(required(&v, "action", anAction, r.Action))}
	switch c.Action {
	case domain.RetryItem, domain.RefundedElsewhere, domain.NothingTaken, domain.AcceptItem, "":
	default:
		v.add("action", "must be "+anAction)
	}
	if note := required(&v, "note", aCode, r.Note); len(v) == 0 {
		c.Note = code(&v, "note", note)
	}
	return c, v.err()
}

func (a *API) postResolution(c echo.Context) error {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return err
	}
	cmd, err := decode(c, func(body resolutionRequest) (payments.Resolve, error) { return body.command(id) })
	if err != nil {
		return err
	}
	r, err := execute(c, a.commands.resolvePayment, cmd)
	return answer(c, http.StatusOK, "", id, r, err)
}
