package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// BenchmarkPayments lets 64 buyers start a payment each, then sends the gateway's
// callbacks for all of them, 64 at a time, compared with as many bare appends of one
// event in the same run. Run it with -benchtime 1x.
func BenchmarkPayments(b *testing.B) {
	const callers, each = 64, 40
	s := newSystem(b, testkit.Redis(b))
	n := s.node(b)
	for b.Loop() {
		product := s.product(b, n, callers*each)
		buyers, slots, ids := make([]user, callers*each), make([]string, callers*each), make([]string, callers*each)
		timed := func(do func(i int)) []time.Duration {
			took := make([]time.Duration, callers*each)
			var wg sync.WaitGroup
			for c := range callers {
				wg.Go(func() {
					for i := c; i < len(took); i += callers {
						start := time.Now()
						do(i)
						took[i] = time.Since(start)
					}
				})
			}
			wg.Wait()
			slices.Sort(took)
			return took
		}
		for i := range buyers {
			buyers[i] = s.user(b, auth.Buyer)
		}
		timed(func(i int) {
			a, err := n.send(b.Context(), buyers[i], http.MethodPost, "/v1/slots/acquire", map[string]any{"productId": product})
			if err != nil || a.status != 201 {
				b.Error(err, a.status)
			}
			slots[i] = a.text("id")
		})
		for _, step := range []struct {
			name string
			do   func(i int)
		}{
			{"append", func(int) {
				_, err := n.store.Append(b.Context(), eventstore.Append{Key: product, Streams: []eventstore.StreamAppend{{
					Stream: uuid.New(), Events: []eventstore.NewEvent{{ID: uuid.New(), Type: "Bare", SchemaVersion: 1, Payload: []byte("{}")}}}}})
				if err != nil {
					b.Error(err)
				}
			}},
			{"start", func(i int) {
				body, _ := json.Marshal(paymentOf(slots[i]))
				r := httptest.NewRequest(http.MethodPost, "/v1/payments", bytes.NewReader(body))
				r.Header.Set("Authorization", "Bearer "+buyers[i].token)
				r.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				n.handler.ServeHTTP(w, r) // not by send, which validates the response against the document
				var p apimodel.Payment
				if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 201 {
					b.Error(err, w.Code)
				}
				ids[i] = p.ID.String()
			}},
			{"callback", func(i int) {
				if status := n.rawCallback(ids[i], succeeded(ids[i], "10")); status != 204 {
					b.Error(status)
				}
			}},
		} {
			took := timed(step.do)
			for _, p := range []int{50, 99} {
				b.ReportMetric(float64(took[len(took)*p/100].Microseconds())/1000, fmt.Sprintf("%s-p%d-ms", step.name, p))
			}
		}
	}
}

// BenchmarkPaymentHistory compares the success of a slot's first payment with that of
// its tenth, the last that it may have, one callback at a time. Run it with
// -benchtime 1x.
func BenchmarkPaymentHistory(b *testing.B) {
	const slots = 30
	s := newSystem(b, testkit.Redis(b))
	n := s.node(b)
	for b.Loop() {
		product := s.product(b, n, 2*slots)
		took := map[int][]time.Duration{}
		for range slots {
			for _, payments := range []int{1, 10} {
				u, slot, id := s.paying(b, n, product)
				for range payments - 1 {
					if status := n.rawCallback(uuid.NewString(), failed(id, "NO")); status != 204 {
						b.Fatal(status)
					}
					id = s.pay(b, n, u, slot).text("id")
				}
				start := time.Now()
				if status := n.rawCallback(uuid.NewString(), succeeded(id, "10")); status != 204 {
					b.Fatal(status)
				}
				took[payments] = append(took[payments], time.Since(start))
			}
		}
		for payments, all := range took {
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, fmt.Sprintf("payments-%d-p50-ms", payments))
		}
	}
}
