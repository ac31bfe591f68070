package command

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// someGates are gates of which some cannot decide.
type someGates struct {
	mu         sync.Mutex
	obstructed map[uuid.UUID]bool
}

func (g *someGates) Obstructed(p uuid.UUID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.obstructed[p]
}

func (g *someGates) Master(uuid.UUID) string { return "master" }

func (g *someGates) obstruct(p uuid.UUID, is bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.obstructed[p] = is
}

func healthy() *someGates { return &someGates{obstructed: map[uuid.UUID]bool{}} }

// full returns an admission without a free entry, and the tickets that hold the entries.
func full(t *testing.T, queue int, gates gateHealth) (a *admission, inside []*ticket) {
	t.Helper()
	a = newAdmission(queue, gates)
	for a.free > 0 {
		in, v := a.enter(t.Context(), uuid.New())
		require.Equal(t, admitted, v)
		inside = append(inside, in)
	}
	return a, inside
}

func (a *admission) waiting() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.crowd
}

func TestAdmission_LeavesEntriesToOtherCommands(t *testing.T) {
	require.Equal(t, 7, newAdmission(8, healthy()).free)
	require.Equal(t, 1, newAdmission(1, healthy()).free)
}

func TestAdmission_FirstComeFirstServed(t *testing.T) {
	a, inside := full(t, 8, healthy())
	product := uuid.New()
	order := make(chan int, 20)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if in, v := a.enter(t.Context(), product); v == admitted {
				order <- i
				in.leave()
			}
		})
		require.Eventually(t, func() bool { return a.waiting() == i+1 }, time.Second, time.Millisecond)
	}
	inside[0].leave()
	wg.Wait()
	for i := range 20 {
		require.Equal(t, i, <-order)
	}
	require.Equal(t, 1, a.free)
	require.Len(t, a.products, len(inside)-1, "a product without requests is dropped")
}

// One buyer of another product does not wait behind the whole queue of the first.
func TestAdmission_ProductsTakeTurns(t *testing.T) {
	a, inside := full(t, 8, healthy())
	hot, cold := uuid.New(), uuid.New()
	order := make(chan uuid.UUID, 10)
	var wg sync.WaitGroup
	for i, p := range []uuid.UUID{hot, hot, hot, hot, hot, cold} {
		wg.Go(func() {
			if in, v := a.enter(t.Context(), p); v == admitted {
				order <- p
				in.leave()
			}
		})
		require.Eventually(t, func() bool { return a.waiting() == i+1 }, time.Second, time.Millisecond)
	}
	inside[0].leave()
	wg.Wait()
	require.Contains(t, []uuid.UUID{<-order, <-order}, cold)
}

func TestAdmission_RefusesIfNothingMoves(t *testing.T) {
	a, _ := full(t, 1, healthy())
	start := time.Now()
	_, v := a.enter(t.Context(), uuid.New())
	require.Equal(t, overloaded, v)
	require.Less(t, time.Since(start), admissionTimeout, "no request was admitted during the timeout")
	require.Zero(t, a.waiting())

	a.crowd = maxCrowd
	start = time.Now()
	_, v = a.enter(t.Context(), uuid.New())
	require.Equal(t, overloaded, v)
	require.Less(t, time.Since(start), standstillTimeout, "too many to wait behind")
}

func TestAdmission_CanceledRequestLeaves(t *testing.T) {
	a, inside := full(t, 1, healthy())
	ctx, leave := context.WithCancel(t.Context())
	in := make(chan verdict)
	go func() {
		_, v := a.enter(ctx, uuid.New())
		in <- v
	}()
	require.Eventually(t, func() bool { return a.waiting() == 1 }, time.Second, time.Millisecond)
	leave()
	require.Equal(t, overloaded, <-in)
	inside[0].leave()
	require.Equal(t, 1, a.free)
	require.Empty(t, a.products)
}

// A product whose gate cannot decide takes its share of the entries and no
// more, products on one Redis master take theirs; further requests are refused early, with
// their own reason, and every other product is admitted at once.
func TestAdmission_ObstructedProductsTakeFraction(t *testing.T) {
	gates := healthy()
	a := newAdmission(64, gates)
	sick := uuid.New()
	gates.obstruct(sick, true)
	share := a.entries / share
	var inside []*ticket
	for range share {
		in, v := a.enter(t.Context(), sick)
		require.Equal(t, admitted, v)
		inside = append(inside, in)
	}
	var wg sync.WaitGroup
	for i := range share { // fill its waiting room
		wg.Go(func() {
			if in, v := a.enter(t.Context(), sick); v == admitted {
				in.leave()
			}
		})
		require.Eventually(t, func() bool { return a.waiting() == i+1 }, time.Second, time.Millisecond)
	}
	start := time.Now()
	_, v := a.enter(t.Context(), sick)
	require.Equal(t, obstructed, v)
	require.Less(t, time.Since(start), standstillTimeout, "one beyond the waiting room is refused early")

	for range 5 { // others on the same master, each with its own share
		other := uuid.New()
		gates.obstruct(other, true)
		for a.admitNow(other) {
		}
	}
	require.LessOrEqual(t, a.entries-a.free, a.entries/masterShare)
	for range a.free / 2 {
		require.True(t, a.admitNow(uuid.New()))
	}

	gates.obstruct(sick, false) // the gate recovers: waiting requests are admitted
	inside[0].leave()
	wg.Wait()
}

// After an obstruction the waiting requests of a product take all entries that it may have, not
// only as many as its other requests return.
func TestAdmission_TakesFreeEntriesAfterObstruction(t *testing.T) {
	gates := healthy()
	a := newAdmission(64, gates)
	product := uuid.New()
	gates.obstruct(product, true)
	inside, v := a.enter(t.Context(), product)
	require.Equal(t, admitted, v)
	for a.admitNow(product) {
	}
	verdicts := make(chan verdict)
	waiting := a.entries / share
	for i := range waiting {
		go func() {
			_, v := a.enter(t.Context(), product) // and never leaves
			verdicts <- v
		}()
		require.Eventually(t, func() bool { return a.waiting() == i+1 }, time.Second, time.Millisecond)
	}
	gates.obstruct(product, false)
	inside.leave()
	require.Zero(t, a.waiting())
	for range waiting {
		require.Equal(t, admitted, <-verdicts)
	}
}

// admitNow admits a request that does not have to wait.
func (a *admission) admitNow(product uuid.UUID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.products[product]
	if q == nil {
		q = &productQueue{product: product}
		a.products[product] = q
	}
	return a.admit(&ticket{admission: a, queue: q})
}
