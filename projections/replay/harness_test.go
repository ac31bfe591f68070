package replay_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/pipelinetest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestMain(m *testing.M) { pipelinetest.Main(m) }

// system is an event store with its read models, and what only the replay's tests need.
type system struct{ *pipelinetest.Pipeline }

func newSystem(t testing.TB, brokers []string) *system {
	return &system{pipelinetest.New(t, brokers, 24)}
}

// newLiveSystem returns a system whose relay and projector run until the test's end.
func newLiveSystem(t testing.TB) *system {
	s := newSystem(t, testkit.Kafka(t))
	s.Start()
	return s
}

// streamEvent is an event and its stream.
type streamEvent struct {
	stream uuid.UUID
	event  domain.Event
}

// record appends events of one product in one batch and returns the last position.
func (s *system) record(product uuid.UUID, events ...streamEvent) int64 {
	s.TB.Helper()
	a := eventstore.Append{Key: product}
	at := map[uuid.UUID]int{}
	for _, e := range events {
		i, known := at[e.stream]
		if !known {
			i = len(a.Streams)
			at[e.stream] = i
			a.Streams = append(a.Streams, eventstore.StreamAppend{Stream: e.stream, Expected: eventstore.Any})
		}
		a.Streams[i].Events = append(a.Streams[i].Events, storetest.NewEvent(s.TB, e.event))
	}
	res, err := s.Append(context.Background(), a)
	require.NoError(s.TB, err)
	return res.Position
}

// shop creates a history of a product in which every type of event occurs.
type shop struct {
	s       *system
	product uuid.UUID
	number  int64
	unit    int
	total   int
	slots   []slot
	random  *rand.Rand
}

type slot struct {
	id, user uuid.UUID
	unit     int
	number   int64
}

func (s *system) open(seed uint64) *shop {
	h := &shop{s: s, product: uuid.New(), total: 100_000, random: rand.New(rand.NewPCG(seed, seed))}
	s.record(h.product, streamEvent{h.product, storetest.Lamp(s.TB, h.total)})
	return h
}

// newLiveShop returns a live system with the history of so many slots, and its shop.
func newLiveShop(t testing.TB, slots int) (*system, *shop) {
	s := newLiveSystem(t)
	h := s.open(1)
	h.acquire(slots)
	h.endSlots()
	s.AwaitCaughtUp()
	return s, h
}

// holdView opens a transaction that holds a view, as a SELECT that takes long does.
func (s *system) holdView(t testing.TB) pgx.Tx {
	long, err := s.Pool.Begin(context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { _ = long.Rollback(context.Background()) }) // for a failing test: closing the pool waits for it
	dbtest.Exec(t, long, "SELECT FROM purchase_slots LIMIT 1")
	return long
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// acquire appends n SlotAcquired events.
func (h *shop) acquire(n int) (last int64) {
	var events []streamEvent
	for range n {
		h.number++
		h.unit++
		sl := slot{id: domain.SlotID(h.product, h.number), user: uuid.New(), unit: h.unit, number: h.number}
		h.slots = append(h.slots, sl)
		events = append(events, streamEvent{sl.id, storetest.Acquired(sl.user, sl.unit, sl.number)})
	}
	return h.s.record(h.product, events...)
}

// endSlots ends the open slots in the various possible ways, and changes the product.
func (h *shop) endSlots() (last int64) {
	price := storetest.KRW(h.s.TB, 259000)
	h.s.record(h.product,
		streamEvent{h.product, domain.ProductDetailsChanged{Name: fmt.Sprintf("Lamp %d", h.random.IntN(1000)), Description: "Another lamp"}},
		streamEvent{h.product, domain.ProductPriceChanged{Price: storetest.KRW(h.s.TB, 250000)}},
		streamEvent{h.product, domain.ProductStockDecreased{Decrease: 10, TotalStock: h.total - 10}},
		streamEvent{h.product, domain.ProductStockIncreased{Increase: 10, TotalStock: h.total}},
		streamEvent{h.product, domain.ProductSalePaused{}},
		streamEvent{h.product, domain.ProductSaleResumed{}},
		streamEvent{h.product, domain.ProductStockIncreased{Increase: 10, TotalStock: h.total + 10}},
		streamEvent{h.product, domain.ProductSaleRescheduled{SaleDate: now().Add(2 * time.Hour)}},
		streamEvent{h.product, domain.GrantWithdrawn{ArrivalSequence: h.number + 1, Unit: h.unit + 1, SlotID: domain.SlotID(h.product, h.number+1)}})
	h.number++
	h.total += 10
	open := h.slots
	h.slots = nil
	h.random.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
	for _, sl := range open {
		payment, gateway := uuid.New(), "gw-"+uuid.NewString()
		expired := expired(sl)
		begun := streamEvent{sl.id, domain.PaymentInitiated{UserID: sl.user, PaymentID: payment, Price: price, Method: domain.Card}}
		failed := streamEvent{sl.id, domain.PaymentFailed{UserID: sl.user, PaymentID: payment, Reason: "INSUFFICIENT_FUNDS"}}
		paid := domain.PaymentCompleted{UserID: sl.user, PaymentID: payment, GatewayPaymentID: gateway, Price: price, Method: domain.Card}
		var events []streamEvent
		switch h.random.IntN(10) {
		case 0:
			h.slots = append(h.slots, sl) // remains open
			continue
		case 1:
			events = []streamEvent{{sl.id, domain.SlotExpiringSoon{UserID: sl.user, Deadline: now()}}, expired}
		case 2:
			events = []streamEvent{begun, {sl.id, domain.PaymentCancelRequested{UserID: sl.user, PaymentID: payment}}, {sl.id, paid}}
		case 7, 8, 9:
			events = append([]streamEvent{begun, {sl.id, paid}}, h.afterPurchase(sl, payment, price)...)
		case 3:
			events = []streamEvent{begun, failed, expired}
		case 4:
			events = []streamEvent{begun, failed, expired,
				{sl.id, domain.RefundDue{UserID: sl.user, PaymentID: payment, GatewayPaymentID: gateway, Amount: price, Reason: "SOLD_OUT",
					RefundID: payment, Cause: domain.RefundLate}}}
		case 5:
			events = []streamEvent{begun, expired, failed,
				{sl.id, domain.RefundDue{UserID: sl.user, PaymentID: payment, Amount: price, Reason: "SOLD_OUT", RefundID: payment, Cause: domain.RefundLate}},
				{sl.id, domain.RefundCompleted{UserID: sl.user, PaymentID: payment, RefundID: payment, GatewayRefundID: "re-1", Amount: price}}}
		default:
			h.number++
			h.unit++
			again := domain.SlotID(h.product, h.number)
			events = []streamEvent{begun, failed, expired,
				{again, domain.SlotAcquired{UserID: sl.user, Unit: h.unit, ArrivalSequence: h.number, TTLMillis: 1800000, WarningMillis: 300000, RegrantOf: &sl.id}},
				{again, paid},
				{sl.id, domain.PaymentRegranted{UserID: sl.user, PaymentID: payment, GatewayPaymentID: gateway, NewSlotID: again}}}
		}
		last = h.s.record(h.product, events...)
	}
	return last
}

// afterPurchase returns events that can follow a purchase.
func (h *shop) afterPurchase(sl slot, payment uuid.UUID, price domain.Money) []streamEvent {
	refund, part, rest := uuid.New(), storetest.KRW(h.s.TB, 100000), storetest.KRW(h.s.TB, 159000)
	due := func(id uuid.UUID, amount domain.Money) streamEvent {
		return streamEvent{sl.id, domain.RefundDue{UserID: sl.user, PaymentID: payment, Amount: amount, Reason: "REQUESTED", RefundID: id,
			Cause: domain.RefundRequested, ReturnUnit: amount.Equal(price)}}
	}
	made := func(id uuid.UUID, amount domain.Money) streamEvent {
		return streamEvent{sl.id, domain.RefundCompleted{UserID: sl.user, PaymentID: payment, RefundID: id, GatewayRefundID: "re-2", Amount: amount}}
	}
	switch h.random.IntN(5) {
	case 0:
		return []streamEvent{due(refund, price), {sl.id, domain.RefundPending{UserID: sl.user, PaymentID: payment, RefundID: refund, Amount: price}},
			made(refund, price), {sl.id, domain.SlotReturned{UserID: sl.user, PaymentID: payment, Unit: sl.unit, ArrivalSequence: sl.number}}}
	case 1:
		return []streamEvent{due(refund, part), made(refund, part), due(payment, rest), made(payment, rest)}
	case 2:
		return []streamEvent{due(refund, part), {sl.id, domain.RefundFailed{UserID: sl.user, PaymentID: payment, RefundID: refund, Amount: part, Reason: "CLOSED"}}}
	case 3:
		return []streamEvent{{sl.id, domain.PaymentDisputed{UserID: sl.user, PaymentID: payment, DisputeID: "d"}},
			{sl.id, domain.PaymentDisputeClosed{UserID: sl.user, PaymentID: payment, DisputeID: "d"}}, {sl.id, domain.PaymentReversed{UserID: sl.user, PaymentID: payment}},
			{sl.id, domain.PaymentResolved{UserID: sl.user, PaymentID: payment, Cause: domain.CauseReversed, Action: domain.AcceptItem, Note: "N"}}}
	}
	return []streamEvent{{sl.id, domain.PaymentContradicted{UserID: sl.user, PaymentID: payment, Code: domain.OtherAmountTaken, Amount: &part}},
		{sl.id, domain.PaymentDisputed{UserID: sl.user, PaymentID: payment, DisputeID: "d"}}}
}

func (h *shop) close() int64 {
	h.s.record(h.product, streamEvent{h.product, domain.ProductSaleCancelled{}})
	return h.s.record(h.product, streamEvent{h.product, domain.ProductDeleted{}})
}

func (s *system) config() replay.Config {
	return replay.Config{ReadPool: s.Pool, Store: s.Reader, Published: s.published, Projections: pipelinetest.Rebuildable(), Logger: s.Log}
}

// published is Published without the topic's id, because some tests replay from a copy of the topic.
func (s *system) published(ctx context.Context) (projections.Head, error) {
	head, err := s.Published(ctx)
	head.TopicID = ""
	return head, err
}

// replay replays with changes to the usual configuration, and returns the differences that it reports.
func (s *system) replay(change ...func(*replay.Config)) (differences []replay.Difference, err error) {
	var mu sync.Mutex
	cfg := s.config()
	cfg.OnDifference = func(d replay.Difference) {
		mu.Lock()
		defer mu.Unlock()
		differences = append(differences, d)
	}
	for _, f := range change {
		f(&cfg)
	}
	err = replay.Run(context.Background(), cfg)
	return differences, err
}

// verify replays and requires that a comparison with the live rows, unless change switches it off,
// finds no difference.
func (s *system) verify(change ...func(*replay.Config)) {
	s.TB.Helper()
	differences, err := s.replay(append([]func(*replay.Config){func(c *replay.Config) { c.Verify = true }}, change...)...)
	require.NoError(s.TB, err, "%v", differences)
}

func expired(sl slot) streamEvent {
	return streamEvent{sl.id, domain.SlotExpired{UserID: sl.user, Unit: sl.unit, ArrivalSequence: sl.number, Deadline: now(), ReclaimStatus: domain.AutoExpired}}
}
