package problem_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/problem"
)

// TestTable holds the statuses that clients rely on, written a second time on
// purpose.
func TestTable(t *testing.T) {
	want := map[string]int{
		"invalid-request": 400, "amount-mismatch": 400,
		"unauthenticated": 401, "invalid-signature": 401, "forbidden": 403,
		"not-found": 404, "product-not-found": 404, "slot-not-found": 404, "payment-not-found": 404,
		"method-not-allowed": 405,
		"sold-out":           409, "duplicate-slot": 409, "sale-not-started": 409, "sale-ended": 409, "sale-paused": 409,
		"product-update-conflict": 409, "product-delete-conflict": 409, "slot-not-active": 409,
		"slot-expired": 409, "slot-already-completed": 409, "payment-in-progress": 409,
		"too-many-payments": 409, "payment-not-pending": 409, "payment-not-refundable": 409, "refund-exceeds-payment": 409, "nothing-to-resolve": 409,
		"precondition-failed": 412, "payload-too-large": 413, "unsupported-media-type": 415, "idempotency-key-reused": 422,
		"too-many-requests": 429, "internal": 500, "unavailable": 503, "overloaded": 503, "read-model-behind": 503,
	}
	got := map[string]int{}
	for _, s := range problem.Slugs() {
		got[string(s)] = s.Status()
		require.NotEmpty(t, s.Title())
	}
	require.Equal(t, want, got)
}

func write(t *testing.T, e *problem.Error) (*httptest.ResponseRecorder, map[string]any) {
	t.Helper()
	rec := httptest.NewRecorder()
	require.NoError(t, problem.Write(rec, e, `/v1/"odd"/é`, "0af7651916cd43dd8448eb211c80319c"))
	var body map[string]any
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &body))
	return rec, body
}

func TestRendering(t *testing.T) {
	rec, body := write(t, problem.New(problem.DuplicateSlot, "you hold one").With("slotId", "abc").With("n", 3))
	require.Equal(t, 409, rec.Code)
	require.Equal(t, "application/problem+json", rec.Header().Get("Content-Type"))
	require.Equal(t, map[string]any{
		"type":     "https://dopaminestore.dev/problems/duplicate-slot",
		"title":    problem.DuplicateSlot.Title(),
		"status":   float64(409),
		"detail":   "you hold one",
		"instance": `/v1/"odd"/é`,
		"traceId":  "0af7651916cd43dd8448eb211c80319c",
		"slotId":   "abc",
		"n":        float64(3),
	}, body)
}

func TestInvalid_AlwaysListsErrors(t *testing.T) {
	_, body := write(t, problem.New(problem.InvalidRequest, "the body is not JSON"))
	require.Equal(t, []any{}, body["errors"])
	_, body = write(t, problem.Invalid(problem.Field("stock", "must be 1 or more")))
	require.Equal(t, []any{map[string]any{"field": "stock", "message": "must be 1 or more"}}, body["errors"])
}

func TestHeaders(t *testing.T) {
	rec, _ := write(t, problem.New(problem.Unauthenticated, ""))
	require.Equal(t, "Bearer", rec.Header().Get("WWW-Authenticate"))
	rec, _ = write(t, problem.New(problem.InvalidSignature, ""))
	require.Empty(t, rec.Header().Get("WWW-Authenticate"))
	for _, s := range []problem.Slug{problem.Unavailable, problem.Overloaded, problem.ReadModelBehind, problem.TooManyRequests} {
		rec, _ = write(t, problem.New(s, ""))
		require.Equal(t, "1", rec.Header().Get("Retry-After"), s)
	}
	rec, _ = write(t, problem.New(problem.Unavailable, "").WithRetryAfter(2100*time.Millisecond))
	require.Equal(t, "3", rec.Header().Get("Retry-After"))
}

func TestError_KeepsTheCauseWithoutShowingIt(t *testing.T) {
	cause := errors.New("password=hunter2")
	shared := problem.New(problem.Unavailable, "retry")
	e := shared.Wrap(cause)
	require.ErrorIs(t, e, cause)
	require.NotErrorIs(t, shared, cause, "Wrap changed the shared value")
	rec, _ := write(t, e)
	require.NotContains(t, rec.Body.String(), "hunter2")

	rec, _ = write(t, problem.From(cause))
	require.Equal(t, 500, rec.Code)
	require.NotContains(t, rec.Body.String(), "hunter2")

	require.Equal(t, problem.Unavailable, problem.From(fmt.Errorf("acquire: %w", e)).Slug())
	require.ErrorIs(t, fmt.Errorf("x: %w", e), problem.New(problem.Unavailable, ""))
	require.Nil(t, problem.From(nil))
}

func TestError_WithDoesNotChangeSharedValues(t *testing.T) {
	shared := problem.New(problem.SoldOut, "").With("a", 1)
	one, two := shared.With("b", 1), shared.With("b", 2)
	_, b1 := write(t, one)
	_, b2 := write(t, two)
	require.NotEqual(t, b1["b"], b2["b"])
}

func BenchmarkAppend(b *testing.B) {
	e := problem.New(problem.SoldOut, "every unit is taken")
	buf := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		buf = problem.Append(buf[:0], e, "/v1/slots/acquire", "0af7651916cd43dd8448eb211c80319c")
	}
}
