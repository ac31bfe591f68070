package replay_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/audit"
	"github.com/dopaminestore/dopamine/projections/products"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/projections/purchases"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/projections/slots"
	"github.com/dopaminestore/dopamine/relay"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestMain(m *testing.M) {
	// sarama's metrics have one ticker per process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

func every() []projections.Rebuildable {
	return []projections.Rebuildable{products.New(), slots.New(), purchases.New(), audit.New()}
}

// system is an event store with a read side, in its own database and with its own topic.
type system struct {
	t      testing.TB
	url    string
	pool   *pgxpool.Pool
	store  *eventstore.Store
	reader *eventstore.Reader
	topic  string
	log    *slog.Logger
}

func newSystem(t testing.TB) *system {
	store := storetest.New(t, 24)
	return &system{t: t, url: store.URL, pool: store.Pool, store: store.Store, reader: store.Reader, topic: testkit.Topic(t), log: storetest.Logger(t)}
}

// streamEvent is an event and its stream.
type streamEvent struct {
	stream uuid.UUID
	event  domain.Event
}

// append appends events of one product in one batch and returns the last position.
func (s *system) append(product uuid.UUID, events ...streamEvent) int64 {
	s.t.Helper()
	a := eventstore.Append{Key: product}
	at := map[uuid.UUID]int{}
	for _, e := range events {
		i, known := at[e.stream]
		if !known {
			i = len(a.Streams)
			at[e.stream] = i
			a.Streams = append(a.Streams, eventstore.StreamAppend{Stream: e.stream, Expected: eventstore.Any})
		}
		a.Streams[i].Events = append(a.Streams[i].Events, storetest.NewEvent(s.t, e.event))
	}
	res, err := s.store.Append(context.Background(), a)
	require.NoError(s.t, err)
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
	s.append(h.product, streamEvent{h.product, domain.ProductCreated{Name: "Lamp", Description: "A lamp", Price: storetest.KRW(s.t, 259000), Stock: h.total, SaleDate: now().Add(time.Hour)}})
	return h
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
		events = append(events, streamEvent{sl.id, domain.SlotAcquired{UserID: sl.user, Unit: sl.unit, ArrivalSequence: sl.number, TTLMillis: 1800000, WarningMillis: 300000}})
	}
	return h.s.append(h.product, events...)
}

// endSlots ends the open slots in the various possible ways, and changes the product.
func (h *shop) endSlots() (last int64) {
	price := storetest.KRW(h.s.t, 259000)
	h.s.append(h.product,
		streamEvent{h.product, domain.ProductDetailsChanged{Name: fmt.Sprintf("Lamp %d", h.random.IntN(1000)), Description: "Another lamp"}},
		streamEvent{h.product, domain.ProductPriceChanged{Price: storetest.KRW(h.s.t, 250000)}},
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
		last = h.s.append(h.product, events...)
	}
	return last
}

// afterPurchase returns events that can follow a purchase.
func (h *shop) afterPurchase(sl slot, payment uuid.UUID, price domain.Money) []streamEvent {
	refund, part, rest := uuid.New(), storetest.KRW(h.s.t, 100000), storetest.KRW(h.s.t, 159000)
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
	h.s.append(h.product, streamEvent{h.product, domain.ProductSaleCancelled{}})
	return h.s.append(h.product, streamEvent{h.product, domain.ProductDeleted{}})
}

// runLive runs a relay and a projector.
func (s *system) runLive(brokers []string) (stopProjector func() error) {
	testkit.Background(s.t, func(ctx context.Context) error {
		notifier := eventstore.Listen(ctx, s.pool)
		defer notifier.Close()
		return relay.New(relay.Config{Pool: s.pool, Store: s.reader, Notifier: notifier, Kafka: kafka.Cluster{Brokers: brokers}, Topic: s.topic, Logger: s.log}).Run(ctx)
	})
	return s.projector(brokers)
}

func (s *system) projector(brokers []string) (stop func() error) {
	var all []projections.Projection
	for _, p := range every() {
		all = append(all, p)
	}
	return testkit.Background(s.t, projector.NewRunner(projector.Config{ReadPool: s.pool, Store: s.reader, Kafka: kafka.Cluster{Brokers: brokers}, Topic: s.topic, Group: s.topic,
		Projections: all, Logger: s.log}).Run)
}

func (s *system) published(ctx context.Context) (projections.Head, error) {
	place, err := relay.ReadCheckpoint(ctx, s.pool)
	head, headErr := s.reader.Head(ctx)
	if err != nil {
		return projections.Head{Position: head}, headErr
	}
	return projections.Head{Position: head, Published: place.Position, Last: place.Last}, headErr
}

func (s *system) config() replay.Config {
	return replay.Config{ReadPool: s.pool, Store: s.reader, Published: s.published, Projections: every(), Logger: s.log}
}

// awaitCaughtUp waits until the live generations have applied the whole store.
func (s *system) awaitCaughtUp() {
	s.t.Helper()
	testkit.Eventually(s.t, 60*time.Second, "the live generations", func() error {
		head, err := s.published(context.Background())
		if err != nil {
			return err
		}
		all, err := projections.ReadStatus(context.Background(), s.pool, head)
		for _, p := range all {
			if p.Lag > 0 || p.Position == 0 {
				return fmt.Errorf("%s: position %d, %d behind, %d parked", p.Projection, p.Position, p.Lag, p.Parked)
			}
		}
		return err
	})
}

func (s *system) count(sql string, args ...any) (n int64) {
	s.t.Helper()
	require.NoError(s.t, s.pool.QueryRow(context.Background(), sql, args...).Scan(&n))
	return n
}

func (s *system) exec(sql string, args ...any) {
	s.t.Helper()
	dbtest.Exec(s.t, s.pool, sql, args...)
}

// generation returns the number of a projection's live generation.
func (s *system) generation(projection string) int {
	return int(s.count("SELECT generation FROM projection_generations WHERE projection = $1 AND state = 'live'", projection))
}

// rows returns all rows of the live tables, as text.
func (s *system) rows() map[string][]string {
	out := map[string][]string{}
	for _, p := range every() {
		for _, table := range p.Tables() {
			rows, err := s.pool.Query(context.Background(), fmt.Sprintf("SELECT t::text FROM %s t ORDER BY 1", projections.Table(table.Base, s.generation(p.Name()))))
			require.NoError(s.t, err)
			for rows.Next() {
				var text string
				require.NoError(s.t, rows.Scan(&text))
				out[table.Base] = append(out[table.Base], text)
			}
			require.NoError(s.t, rows.Err())
		}
	}
	return out
}

func expired(sl slot) streamEvent {
	return streamEvent{sl.id, domain.SlotExpired{UserID: sl.user, Unit: sl.unit, ArrivalSequence: sl.number, Deadline: now(), ReclaimStatus: domain.AutoExpired}}
}
