package e2e

import (
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// crowd is buyers who come one after the other. Each requests one slot with an Idempotency-Key and,
// as a good client does, retries with the same key until there is a response.
type crowd struct {
	f       *fleet
	product string
	stop    chan struct{}
	wg      sync.WaitGroup
	granted atomic.Int64
	soldOut atomic.Int64
	retries atomic.Int64

	mu   sync.Mutex
	seen []seen
}

// seen is the final response to one buyer.
type seen struct {
	buyer    *client
	key      string
	sent     time.Time // the last try
	answered time.Time
	status   int
	slug     string
	slot     struct {
		ID              uuid.UUID `json:"id"`
		Unit            int       `json:"unit"`
		ArrivalSequence int64     `json:"arrivalSequence"`
	}
}

// crowd starts buyers at about that rate, at both command APIs.
func (f *fleet) crowd(product string, perSecond int) *crowd {
	c := &crowd{f: f, product: product, stop: make(chan struct{})}
	const doors = 8
	for i := range doors {
		c.wg.Go(func() {
			tick := time.NewTicker(time.Second * doors / time.Duration(perSecond))
			defer tick.Stop()
			for n := i; ; n++ {
				select {
				case <-c.stop:
					return
				case <-tick.C:
					c.buyer(n)
				}
			}
		})
	}
	return c
}

// buyer retries until there is a response, at another node each time.
func (c *crowd) buyer(n int) {
	const patience = 30 * time.Second
	s := seen{buyer: c.f.users.buyer(), key: uuid.NewString()}
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for until := time.Now().Add(patience); time.Now().Before(until); n++ {
		s.sent = time.Now()
		a := s.buyer.with("Idempotency-Key", s.key).try(http.MethodPost,
			c.f.commandURLs[n%len(c.f.commandURLs)]+"/v1/slots/acquire", object{"productId": c.product})
		s.answered = time.Now()
		s.status, s.slug = a.status, a.slug()
		if a.err != nil || a.status >= http.StatusInternalServerError || s.slug == "sale-not-started" {
			c.retries.Add(1)
			<-pause.C
			continue
		}
		switch {
		case a.status == http.StatusCreated:
			if err := json.Unmarshal(a.body, &s.slot); err != nil {
				s.slug = err.Error()
			}
			c.granted.Add(1)
		case s.slug == "sold-out":
			c.soldOut.Add(1)
		}
		break
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, s)
}

// end stops the crowd and returns each buyer's final response.
func (c *crowd) end() []seen {
	close(c.stop)
	c.wg.Wait()
	return c.seen
}

// told returns the number of buyers with that response whose request was within the time.
func told(all []seen, slug string, from, to time.Time) (n int) {
	for _, s := range all {
		if s.slug == slug && s.sent.After(from) && s.answered.Before(to) {
			n++
		}
	}
	return n
}

// holds checks that every buyer has a valid response, that every 201 is in the claims with the same
// content, and that a repetition with the same key gets the same response.
func holds(t *testing.T, f *fleet, product string, all []seen) {
	t.Helper()
	units := map[int]bool{}
	for i, s := range all {
		require.Contains(t, []int{http.StatusCreated, http.StatusConflict}, s.status, "%s", s.slug)
		if s.status != http.StatusCreated {
			require.Contains(t, []string{"sold-out", "sale-paused"}, s.slug)
			continue
		}
		require.False(t, units[s.slot.Unit], "unit %d was answered 201 twice", s.slot.Unit)
		units[s.slot.Unit] = true
		var n int
		require.NoError(t, f.db.QueryRow(t.Context(), `
			SELECT count(*) FROM slot_claims c JOIN events e ON e.stream = c.slot_id AND e.type = 'SlotAcquired'
			WHERE c.product_id = $1 AND c.slot_id = $2 AND c.unit = $3 AND c.number = $4 AND c.buyer = $5`,
			product, s.slot.ID, s.slot.Unit, s.slot.ArrivalSequence, s.buyer.sub).Scan(&n))
		require.Equal(t, 1, n, "slot %s was answered 201 and is not there", s.slot.ID)
		if i%10 == 0 {
			_, again := s.buyer.with("Idempotency-Key", s.key).want(http.StatusCreated, http.MethodPost,
				f.commandURLs[0]+"/v1/slots/acquire", object{"productId": product})
			require.Equal(t, s.slot.ID.String(), again["id"])
			s.buyer.refused(http.StatusConflict, "duplicate-slot", http.MethodPost, f.commandURLs[1]+"/v1/slots/acquire", object{"productId": product})
		}
	}
}
