package command

import (
	"context"
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/problem"
)

type notifyPaymentHandler struct{ command }

// Handle applies a callback of the payment gateway.
func (s notifyPaymentHandler) Handle(ctx context.Context, _ *invocation, n gateway.Notification) (commandResult[nothing], error) {
	recorded, err := s.payments.Notify(ctx, n)
	if err != nil {
		return commandResult[nothing]{}, err
	}
	return commandResult[nothing]{product: recorded.Product, position: recorded.Position}, nil
}

var (
	errSignature = problem.New(problem.InvalidSignature, "the callback is not signed with one of the webhook secrets, or its timestamp is more than 5 minutes away")
	errCallback  = problem.New(problem.InvalidRequest, "the callback is not valid JSON with a type and the type's data")
)

// callbackProblem converts an error of a WebhookParser to a problem.
func callbackProblem(err error) error {
	var malformed *gateway.MalformedError
	switch {
	case errors.Is(err, gateway.ErrSignature):
		return errSignature.Wrap(err)
	case errors.Is(err, gateway.ErrUnknownReference):
		return errNoPayment.Wrap(err)
	case errors.As(err, &malformed) && malformed.Field != "":
		return problem.Invalid(problem.Field(malformed.Field, malformed.Err.Error())).Wrap(err)
	case errors.As(err, &malformed):
		return errCallback.Wrap(err)
	}
	return errUnavailable.Wrap(err) // the gateway could not be queried, and retries the callback
}

func (a *API) postCallback(c echo.Context) error {
	n, err := a.webhooks.Parse(c.Request().Context(), c.Request().Header, httpapi.ReadBody(c), a.now())
	if err != nil {
		return refused(c, callbackProblem(err))
	}
	if n.Kind == gateway.Ignored {
		return c.NoContent(http.StatusNoContent)
	}
	r, err := execute(c, a.commands.notifyPayment, n)
	if err != nil {
		return refused(c, err)
	}
	if r.position > 0 {
		httpapi.SetPosition(c, r.product, r.position)
	}
	return c.NoContent(http.StatusNoContent)
}
