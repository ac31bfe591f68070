package command

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// soldOut is a gate that refuses at once.
type soldOut struct{ noGate }

func (soldOut) Decide(_ context.Context, r redis.Request) (redis.Decision, error) {
	return redis.Decision{Outcome: redis.SoldOut, Product: r.Product, Buyer: r.Buyer, Number: 1}, nil
}

// BenchmarkSoldOut measures a sold-out response without the gate, compared with
// a bare Echo handler that verifies the same token, parses and responds; and
// with a gate on Redis and many requests at once.
func BenchmarkSoldOut(b *testing.B) {
	k := newTokens(b)
	buyer := k.user(b, auth.Buyer)
	body := `{"productId":"` + uuid.NewString() + `"}`
	run := func(b *testing.B, h http.Handler, body string) {
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				r := httptest.NewRequest(http.MethodPost, "/v1/slots/acquire", strings.NewReader(body))
				r.Header.Set("Authorization", "Bearer "+buyer.token)
				r.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != http.StatusConflict {
					b.Fatal(w.Code, w.Body)
				}
			}
		})
	}
	b.Run("api", func(b *testing.B) {
		pool := dbtest.Write(b)
		store, err := eventstore.Open(b.Context(), pool, eventstore.Options{})
		require.NoError(b, err)
		api, err := New(Config{
			Pool: pool, Store: store, Reader: eventstore.NewReader(pool), Claims: claims.NewStore(pool),
			GateStore: gatestore.NewStore(pool, avsc.Decode), Gate: soldOut{}, Verifier: k.Verifier, AppendQueue: 4096, SlotTTL: time.Minute, Registry: registry(),
			Payments: &payments.Service{}, WebhookSecrets: []string{webhookSecret},
		})
		require.NoError(b, err)
		run(b, api.Handler(), body)
		require.NoError(b, store.Close(context.Background()))
	})
	b.Run("gate", func(b *testing.B) {
		s := newSystem(b, testkit.Redis(b))
		n := s.node(b)
		product := s.product(b, n, 1)
		require.Equal(b, 201, s.acquire(b, n, s.user(b, auth.Buyer), product).status)
		buyer = s.user(b, auth.Buyer)
		b.SetParallelism(128)
		run(b, n.handler, `{"productId":"`+product.String()+`"}`)
	})
	b.Run("bare", func(b *testing.B) {
		e := echo.New()
		e.POST("/v1/slots/acquire", func(c echo.Context) error {
			token := strings.TrimPrefix(c.Request().Header.Get("Authorization"), "Bearer ")
			if _, err := k.Verifier.Verify(c.Request().Context(), token); err != nil {
				return err
			}
			var v struct {
				ProductID uuid.UUID `json:"productId"`
			}
			if err := json.NewDecoder(c.Request().Body).Decode(&v); err != nil {
				return err
			}
			return c.JSON(http.StatusConflict, map[string]any{"title": "Sold out", "status": http.StatusConflict})
		})
		run(b, e, body)
	})
}
