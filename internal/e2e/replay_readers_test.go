package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
)

// readTimeout is the maximum duration of a read on a machine where everything runs at once; usually
// it takes milliseconds.
const readTimeout = 5 * time.Second

// Kinds of reads, for which durations are reported.
const (
	bySQL      = "a view by SQL"
	bySnapshot = "a generation by SQL"
	byCount    = "counting a view"
	byAPI      = "the query API"
	byOwn      = "one's own write"
	byAcquire  = "acquire"
)

// readers read every view in every way until they are stopped, and check for errors, for missing
// rows, and for slow reads.
type readers struct {
	s       *replaySystem
	cancel  context.CancelFunc
	ctx     context.Context
	wg      sync.WaitGroup
	mayLag  bool // own writes may be late, since projectors are taken down
	behind  atomic.Int64
	mu      sync.Mutex
	took    map[string][]time.Duration
	failure []error
}

// read sends readers out.
func (s *replaySystem) read(mayLag bool) *readers {
	r := &readers{s: s, mayLag: mayLag, took: map[string][]time.Duration{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	s.t.Cleanup(r.cancel)
	users := s.users
	admin := s.admin
	buyers := make([]*client, len(s.buyers))
	for i, b := range s.buyers {
		buyers[i] = users.known(b, auth.Buyer)
	}
	// Often, but so that the two cores of a small machine do other things too.
	const often, page = 50 * time.Millisecond, 100 * time.Millisecond
	r.loop(often, r.views())
	r.loop(often, r.snapshots())
	r.loop(often, r.counts())
	r.loop(often, r.lookups(buyers, admin))
	r.loop(page, r.walk("/v1/audit", "entries", "eventId", admin, "slot_audit_log"))
	r.loop(page, r.walk("/v1/purchases", "purchases", "id", admin, "purchases"))
	r.loop(often, r.ownWrites(admin))
	return r
}

// loop does a step again and again, until one fails.
func (r *readers) loop(every time.Duration, step func() error) {
	r.wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			if err := step(); err != nil {
				r.mu.Lock()
				r.failure = append(r.failure, err)
				r.mu.Unlock()
				return
			}
			select {
			case <-r.ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
}

// end stops the readers: none may have noticed anything.
func (r *readers) end(what string) map[string][]time.Duration {
	r.s.t.Helper()
	r.cancel()
	r.wg.Wait()
	require.NoError(r.s.t, errors.Join(r.failure...), what)
	if !r.mayLag {
		require.Zero(r.s.t, r.behind.Load(), "reads of own writes that were answered read-model-behind: %s", what)
	}
	for _, kind := range slices.Sorted(maps.Keys(r.took)) {
		all := r.took[kind]
		require.NotEmpty(r.s.t, all)
		slices.Sort(all)
		r.s.t.Logf("%s: %s: %d times, p50 %s, p99 %s, most %s", what, kind, len(all), round(all[len(all)/2]), round(all[len(all)*99/100]), round(all[len(all)-1]))
		if kind != byCount {
			require.Less(r.s.t, all[len(all)-1], readTimeout, "%s: %s", what, kind)
		}
	}
	return r.took
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// timed does one read.
func (r *readers) timed(kind string, do func() error) error {
	began := time.Now()
	err := do()
	took := time.Since(began)
	if err != nil {
		return fmt.Errorf("%s, after %s: %w", kind, took, err)
	}
	r.mu.Lock()
	r.took[kind] = append(r.took[kind], took)
	r.mu.Unlock()
	return nil
}

// same records the first value of a key, and fails on any other one.
func same(first map[string]string, key, now string) error {
	before, known := first[key]
	if !known {
		first[key] = now
		return nil
	}
	if before != now {
		return fmt.Errorf("%s was\n%.2000s\nand is now\n%.2000s", key, before, now)
	}
	return nil
}

// rowsOf is all that a view or table has of the known products and buyers.
func (r *readers) rowsOf(q interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, view, table string) (rows string, err error) {
	column, of := "user_id", r.s.buyers
	if view == "products" {
		column, of = "id", r.s.products
	}
	err = q.QueryRow(context.Background(), fmt.Sprintf(`SELECT count(*) || ' ' || md5(string_agg(t::text, E'\n' ORDER BY t::text)) FROM %s t WHERE %s = ANY($1)`, table, column), of).Scan(&rows)
	return rows, err
}

func (r *readers) views() func() error {
	first, i := map[string]string{}, 0
	return func() error {
		view := everyView[i%len(everyView)]
		i++
		return r.timed(bySQL, func() error {
			rows, err := r.rowsOf(r.s.db, view, view)
			if err != nil {
				return fmt.Errorf("%s: %w", view, err)
			}
			return same(first, view, rows)
		})
	}
}

// snapshots reads like the query API: the live generation's number and its rows in one snapshot,
// repeated if it was dropped meanwhile.
func (r *readers) snapshots() func() error {
	first, i := map[string]string{}, 0
	read := func(view string) (rows string, err error) {
		err = pgx.BeginTxFunc(context.Background(), r.s.db, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			var table string
			if err := tx.QueryRow(context.Background(), `SELECT projection || '_g' || generation FROM projection_generations WHERE projection = $1 AND state = 'live'`, view).Scan(&table); err != nil {
				return err
			}
			rows, err = r.rowsOf(tx, view, table)
			return err
		})
		return rows, err
	}
	return func() error {
		view := everyView[i%len(everyView)]
		i++
		return r.timed(bySnapshot, func() error {
			rows, err := read(view)
			if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == "42P01" {
				rows, err = read(view)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", view, err)
			}
			return same(first, view, rows)
		})
	}
}

// counts counts all rows, which only increase. Counting millions is expensive, so it is done for at
// most a tenth of the time.
func (r *readers) counts() func() error {
	seen, i := map[string]int64{}, 0
	var rest time.Time
	return func() error {
		if time.Now().Before(rest) {
			return nil
		}
		view := everyView[i%len(everyView)]
		i++
		began := time.Now()
		defer func() { rest = began.Add(10 * time.Since(began)) }()
		return r.timed(byCount, func() error {
			var n int64
			if err := r.s.db.QueryRow(context.Background(), `SELECT count(*) FROM `+view).Scan(&n); err != nil {
				return fmt.Errorf("%s: %w", view, err)
			}
			if n < seen[view] {
				return fmt.Errorf("%s had %d rows, then %d", view, seen[view], n)
			}
			seen[view] = n
			return nil
		})
	}
}

// fetch requests a path of the query API, which must respond 200.
func (r *readers) fetch(c *client, path string) ([]byte, error) {
	a := c.try(http.MethodGet, r.s.queryURL+path, nil)
	if a.err != nil {
		return nil, fmt.Errorf("%s: %w", path, a.err)
	}
	if a.status != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d: %s", path, a.status, a.body)
	}
	return a.body, nil
}

// lookups reads past states, which do not change.
func (r *readers) lookups(buyers []*client, admin *client) func() error {
	first, i := map[string]string{}, 0
	var slots, payments []string // of the current buyer
	total := 0
	return func() error {
		buyer := buyers[i/6%len(buyers)]
		product := r.s.products[i%len(r.s.products)].String()
		i++
		get := func(c *client, path string) (body []byte, err error) {
			err = r.timed(byAPI, func() error { body, err = r.fetch(c, path); return err })
			return body, err
		}
		fixed := func(c *client, path string) error {
			body, err := get(c, path)
			if err != nil {
				return err
			}
			return same(first, path+" of "+c.sub.String(), string(body))
		}
		switch i % 6 {
		case 1:
			path := "/v1/slots/my-slots"
			body, err := get(buyer, path)
			if err != nil {
				return err
			}
			var list struct{ Slots []struct{ ID string } }
			if err := json.Unmarshal(body, &list); err != nil {
				return err
			}
			slots = slots[:0]
			for _, s := range list.Slots {
				slots = append(slots, s.ID)
			}
			if len(slots) == 0 {
				return fmt.Errorf("%s: a buyer of the history has none", path)
			}
			return same(first, path+" of "+buyer.sub.String(), string(body))
		case 2:
			path := "/v1/purchases"
			body, err := get(buyer, path)
			if err != nil {
				return err
			}
			var page struct{ Purchases []struct{ ID string } }
			if err := json.Unmarshal(body, &page); err != nil {
				return err
			}
			payments = payments[:0]
			for _, p := range page.Purchases {
				payments = append(payments, p.ID)
			}
			return same(first, path+" of "+buyer.sub.String(), string(body))
		case 3:
			return fixed(admin, "/v1/audit?slotId="+slots[0])
		case 4:
			if len(payments) > 0 {
				return fixed(admin, "/v1/payments/"+payments[0])
			}
			return fixed(admin, "/v1/slots/"+slots[0])
		case 5:
			return fixed(admin, "/v1/products/"+product)
		default:
			body, err := get(admin, "/v1/products?size=100")
			if err != nil {
				return err
			}
			var page struct {
				Products      []struct{ ID string }
				TotalElements int
			}
			if err := json.Unmarshal(body, &page); err != nil {
				return err
			}
			if page.TotalElements < total {
				return fmt.Errorf("there were %d products, and then %d", total, page.TotalElements)
			}
			total = page.TotalElements
			for _, p := range r.s.products { // the oldest sales first
				if !slices.ContainsFunc(page.Products, func(o struct{ ID string }) bool { return o.ID == p.String() }) {
					return fmt.Errorf("the product %s of the past is not in the list", p)
				}
			}
			return nil
		}
	}
}

// walk reads a product's list page by page: it must be complete and in order, whatever is swapped
// between two pages.
func (r *readers) walk(path, list, id string, admin *client, view string) func() error {
	product, cursor := r.s.products[0].String(), ""
	first := map[string]string{}
	seen := 0
	var digest strings.Builder
	whole := 0
	return func() error {
		q := url.Values{"productId": {product}, "limit": {"1000"}}
		if whole == 0 {
			if err := r.s.db.QueryRow(context.Background(), `SELECT count(*) FROM `+view+` WHERE product_id = $1`, product).Scan(&whole); err != nil {
				return err
			}
		}
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		var body []byte
		if err := r.timed(byAPI, func() (err error) { body, err = r.fetch(admin, path+"?"+q.Encode()); return err }); err != nil {
			return err
		}
		var page map[string]json.RawMessage
		var rows []map[string]any
		if err := errors.Join(json.Unmarshal(body, &page), json.Unmarshal(page[list], &rows)); err != nil {
			return err
		}
		for _, row := range rows {
			fmt.Fprint(&digest, row[id], " ")
		}
		seen += len(rows)
		var next *string
		if err := json.Unmarshal(page["nextCursor"], &next); err != nil {
			return err
		}
		if next != nil {
			cursor = *next
			return nil
		}
		if seen != whole {
			return fmt.Errorf("%s: %d of %d rows of a product of the past", path, seen, whole)
		}
		err := same(first, path, digest.String())
		cursor, seen = "", 0
		digest.Reset()
		return err
	}
}

// writes are the writes that buyers made meanwhile.
type writes struct {
	product string
	mu      sync.Mutex
	slots   []uuid.UUID // each was answered 201
}

// ownWrites makes a buyer acquire, pay, and read these writes in every view.
func (r *readers) ownWrites(admin *client) func() error {
	n := 0
	return func() error {
		n++
		buyer := r.s.users.buyer()
		command := r.s.commandURLs[n%len(r.s.commandURLs)]
		var a answer
		if err := r.timed(byAcquire, func() error {
			a = buyer.try(http.MethodPost, command+"/v1/slots/acquire", object{"productId": r.s.writes.product})
			return a.err
		}); err != nil {
			return err
		}
		if a.status != http.StatusCreated {
			return fmt.Errorf("acquire: status %d: %s", a.status, a.body)
		}
		var slot struct{ ID uuid.UUID }
		if err := json.Unmarshal(a.body, &slot); err != nil {
			return err
		}
		r.s.writes.add(slot.ID)
		id := slot.ID.String()
		seen := a.header.Get("X-Position")
		if err := r.own(buyer, seen, "/v1/slots/"+id, id); err != nil {
			return err
		}
		if err := r.own(buyer, seen, "/v1/slots/my-slots", id); err != nil {
			return err
		}
		if err := r.own(admin, seen, "/v1/audit?type=SlotAcquired&slotId="+id, id); err != nil {
			return err
		}
		if err := r.own(buyer, seen, "/v1/products/"+r.s.writes.product, r.s.writes.product); err != nil {
			return err
		}
		if n%2 == 0 {
			return nil
		}
		p := buyer.try(http.MethodPost, command+"/v1/payments", object{"purchaseSlotId": id, "idempotencyKey": uuid.NewString(), "amount": "259000", "currency": "KRW", "paymentMethod": "CARD"})
		if p.err != nil {
			return p.err
		}
		if r.mayLag && p.slug() == "slot-expired" {
			return nil
		}
		if p.status != http.StatusCreated {
			return fmt.Errorf("pay: status %d: %s", p.status, p.body)
		}
		var payment struct{ ID uuid.UUID }
		if err := json.Unmarshal(p.body, &payment); err != nil {
			return err
		}
		seen = p.header.Get("X-Position")
		if err := r.own(buyer, seen, "/v1/payments/"+payment.ID.String(), payment.ID.String()); err != nil {
			return err
		}
		return r.own(buyer, seen, "/v1/purchases", payment.ID.String())
	}
}

// own reads an own write, which must be in the response.
func (r *readers) own(c *client, position, path, id string) error {
	for until := time.Now().Add(60 * time.Second); ; {
		err := r.timed(byOwn, func() error {
			a := c.with("X-Min-Position", position).try(http.MethodGet, r.s.queryURL+path, nil)
			switch {
			case a.err != nil:
				return fmt.Errorf("%s: %w", path, a.err)
			case a.slug() == "read-model-behind":
				return errBehind
			case a.status != http.StatusOK:
				return fmt.Errorf("%s: status %d: %s", path, a.status, a.body)
			case !strings.Contains(string(a.body), id):
				return fmt.Errorf("%s: one's own write %s is not there: %.1000s", path, id, a.body)
			}
			return nil
		})
		if !errors.Is(err, errBehind) {
			return err
		}
		r.behind.Add(1)
		if time.Now().After(until) {
			return err
		}
	}
}

var errBehind = errors.New("read-model-behind")

func (w *writes) add(slot uuid.UUID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slots = append(w.slots, slot)
}

// kept checks that everything that was answered 201 is in the read models.
func (s *replaySystem) kept() {
	s.t.Helper()
	s.writes.mu.Lock()
	defer s.writes.mu.Unlock()
	require.NotEmpty(s.t, s.writes.slots)
	for _, view := range []string{"purchase_slots WHERE id", "slot_audit_log WHERE type = 'SlotAcquired' AND slot_id"} {
		require.Equal(s.t, len(s.writes.slots), one[int](s, `SELECT count(*) FROM `+view+` = ANY($1)`, s.writes.slots), view)
	}
}
