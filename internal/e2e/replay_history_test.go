package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/tools/dbtest"
)

const (
	// pastProducts were on sale in the past.
	pastProducts = 20
	// openSlots is the number of concurrently open slots in the history; it is also the distance
	// between the events of one slot.
	openSlots = 2000
	// forgotten is the ratio of slots whose end comes only at the end of the history, when a replay
	// has long written their rows.
	forgotten = 100
	// knownBuyers is the number of buyers whose rows are read repeatedly.
	knownBuyers = 50
)

// history makes the log of sales that are over, as the domain would have
// decided it: each event is one that the folds accept.
type history struct {
	random   *rand.Rand
	products []*pastProduct
	open     []*life
	late     []*life
	left     int // remaining events, approximately
	position int64
	at       time.Time
	step     time.Duration
	buyers   []uuid.UUID // some of all
	slots    int
}

type pastProduct struct {
	id       uuid.UUID
	version  int
	acquired int
	price    domain.Money
}

// life is what is still to happen to a slot, and to the one that replaces it after a re-grant.
type life struct {
	product  *pastProduct
	events   []happening
	versions map[uuid.UUID]int
}

type happening struct {
	stream uuid.UUID
	event  domain.Event
	actor  string
}

// loadHistory writes a history of about n events into an empty event store, in the form in which
// the command API does. It returns some of the buyers, and the products that were not deleted.
func loadHistory(t *testing.T, db *pgxpool.Pool, n int) (buyers, products []uuid.UUID) {
	t.Helper()
	const lies, ended = 48 * time.Hour, 2 * time.Hour
	h := &history{random: rand.New(rand.NewPCG(1, 2)), left: n, at: time.Now().UTC().Add(-lies).Truncate(time.Millisecond)}
	h.step = ((lies - ended) / time.Duration(n+n/10+1000)).Truncate(time.Microsecond)
	price, err := domain.NewMoney(decimal.NewFromInt(259000), "KRW")
	require.NoError(t, err)
	end := time.Now().UTC().Add(-ended / 2).Truncate(time.Millisecond)
	for range pastProducts {
		h.products = append(h.products, &pastProduct{id: uuid.New(), price: price})
	}
	created := 0
	copied, err := db.CopyFrom(t.Context(), pgx.Identifier{"events"}, []string{"position", "id", "stream", "version", "key", "type", "schema_version",
		"payload", "traceparent", "correlation_id", "causation_id", "actor", "recorded_at"}, pgx.CopyFromFunc(func() ([]any, error) {
		if created < len(h.products) {
			p := h.products[created]
			created++
			return h.ofProduct(p, domain.ProductCreated{Name: fmt.Sprintf("Lamp %d", created), Description: "A lamp", Price: price,
				Stock: 9_000_000, SaleDate: h.at.Add(time.Minute).Truncate(time.Millisecond), SaleEndDate: &end})
		}
		return h.next()
	}))
	require.NoError(t, err)
	dbtest.Exec(t, db, `VACUUM (ANALYZE) events`)
	t.Logf("the history: %d events of %d slots", copied, h.slots)
	for _, p := range h.products[1:] {
		products = append(products, p.id)
	}
	return h.buyers, products
}

// next returns the next row, nil at the end.
func (h *history) next() ([]any, error) {
	for h.left > 0 && len(h.open) < openSlots && h.random.IntN(3) > 0 {
		h.begin()
	}
	if h.left > 0 && h.random.IntN(500) == 0 {
		return h.productEvent()
	}
	if len(h.open) == 0 {
		if h.left > 0 {
			h.begin()
		} else if h.open, h.late = h.late, nil; len(h.open) == 0 {
			return h.deletion()
		}
	}
	i := h.random.IntN(len(h.open))
	l := h.open[i]
	e := l.events[0]
	l.events = l.events[1:]
	l.versions[e.stream]++
	if len(l.events) == 0 || (len(l.events) == 1 && h.left > 0 && h.random.IntN(forgotten) == 0) {
		if len(l.events) == 1 {
			h.late = append(h.late, l)
		}
		h.open[i] = h.open[len(h.open)-1]
		h.open = h.open[:len(h.open)-1]
	}
	return h.row(l.product, e, l.versions[e.stream])
}

func (h *history) ofProduct(p *pastProduct, e domain.Event) ([]any, error) {
	p.version++
	return h.row(p, happening{p.id, e, uuid.NewString()}, p.version)
}

func (h *history) productEvent() ([]any, error) {
	p := h.products[h.random.IntN(len(h.products))]
	switch h.random.IntN(4) {
	case 0:
		return h.ofProduct(p, domain.ProductDetailsChanged{Name: fmt.Sprintf("Lamp %d", h.random.IntN(1000)), Description: "Another lamp"})
	case 1:
		return h.ofProduct(p, domain.ProductSalePaused{})
	case 2:
		return h.ofProduct(p, domain.ProductSaleResumed{})
	default:
		p.acquired++
		return h.ofProduct(p, domain.GrantWithdrawn{ArrivalSequence: int64(p.acquired), Unit: p.acquired, SlotID: domain.SlotID(p.id, int64(p.acquired))})
	}
}

// deletion ends the history: the first product is deleted.
func (h *history) deletion() ([]any, error) {
	if h.products[0].version < 0 {
		return nil, nil
	}
	row, err := h.ofProduct(h.products[0], domain.ProductDeleted{})
	h.products[0].version = -1
	return row, err
}

// begin makes a buyer acquire a slot, and draws what happens to it.
func (h *history) begin() {
	p := h.products[h.random.IntN(len(h.products))]
	p.acquired++
	h.slots++
	number, unit, user := int64(p.acquired), p.acquired, uuid.New()
	slot, payment, gateway := domain.SlotID(p.id, number), uuid.New(), "gw-"+uuid.NewString()
	buyer, own := user.String(), domain.ActorSystem
	if h.slots%97 == 1 && len(h.buyers) < knownBuyers {
		h.buyers = append(h.buyers, user)
	}
	const ttl, warning = 1_800_000, 300_000
	deadline := h.at.Add(ttl * time.Millisecond).Truncate(time.Millisecond)
	events := []happening{{slot, domain.SlotAcquired{UserID: user, Unit: unit, ArrivalSequence: number, TTLMillis: ttl, WarningMillis: warning}, buyer}}
	begun := happening{slot, domain.PaymentInitiated{UserID: user, PaymentID: payment, Price: p.price, Method: domain.Card}, buyer}
	failed := happening{slot, domain.PaymentFailed{UserID: user, PaymentID: payment, GatewayPaymentID: gateway, Reason: "INSUFFICIENT_FUNDS"}, own}
	expired := happening{slot, domain.SlotExpired{UserID: user, Unit: unit, ArrivalSequence: number, Deadline: deadline, ReclaimStatus: domain.AutoExpired}, own}
	warned := happening{slot, domain.SlotExpiringSoon{UserID: user, Deadline: deadline}, own}
	due := happening{slot, domain.RefundDue{UserID: user, PaymentID: payment, GatewayPaymentID: gateway, Amount: p.price, Reason: "SOLD_OUT",
		RefundID: payment, Cause: domain.RefundLate}, own}
	paid := domain.PaymentCompleted{UserID: user, PaymentID: payment, GatewayPaymentID: gateway, Price: p.price, Method: domain.Card}
	switch way := h.random.IntN(8); {
	case way == 0 && p != h.products[0]: // stays open
	case way <= 3: // the product that is deleted at the end has no open slot
		events = append(events, warned, expired)
	case way <= 5:
		events = append(events, begun, happening{slot, paid, own})
	case way == 6:
		events = append(events, begun, warned, failed, expired, due,
			happening{slot, domain.RefundCompleted{UserID: user, PaymentID: payment, RefundID: payment, GatewayRefundID: "re-1", Amount: p.price}, own})
	default:
		p.acquired++
		again := domain.SlotID(p.id, int64(p.acquired))
		events = append(events, begun, failed, expired,
			happening{again, domain.SlotAcquired{UserID: user, Unit: p.acquired, ArrivalSequence: int64(p.acquired), TTLMillis: ttl, WarningMillis: warning, RegrantOf: &slot}, own},
			happening{again, paid, own},
			happening{slot, domain.PaymentRegranted{UserID: user, PaymentID: payment, GatewayPaymentID: gateway, NewSlotID: again}, own})
	}
	h.left -= len(events)
	h.open = append(h.open, &life{product: p, events: events, versions: map[uuid.UUID]int{}})
}

func (h *history) row(p *pastProduct, e happening, version int) ([]any, error) {
	typ, schema, payload, err := avsc.Encode(e.event)
	if err != nil {
		return nil, err
	}
	h.position++
	h.at = h.at.Add(h.step)
	trace := uuid.New()
	return []any{h.position, uuid.New(), e.stream, version, p.id, typ, schema, payload, fmt.Sprintf("00-%x-00f067aa0ba902b7-01", trace[:]),
		"history", "history", e.actor, h.at.Truncate(time.Millisecond)}, nil
}
