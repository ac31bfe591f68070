package command

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// full is an admission whose places are all taken.
func full(t *testing.T, places int) *admission {
	t.Helper()
	a := newAdmission(places)
	for a.free > 0 {
		require.True(t, a.enter(t.Context()))
	}
	return a
}

func (a *admission) crowd() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waiting.Len()
}

func TestAdmissionLeavesPlacesToOtherCommands(t *testing.T) {
	require.Equal(t, 7, newAdmission(8).free)
	require.Equal(t, 1, newAdmission(1).free)
}

func TestAdmissionIsFirstComeFirstServed(t *testing.T) {
	a := full(t, 8)
	order := make(chan int, 20)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if a.enter(t.Context()) {
				order <- i
				a.leave()
			}
		})
		require.Eventually(t, func() bool { return a.crowd() == i+1 }, time.Second, time.Millisecond)
	}
	a.leave()
	wg.Wait()
	for i := range 20 {
		require.Equal(t, i, <-order)
	}
	require.Equal(t, 1, a.free)
}

func TestAdmissionTurnsAwayWhenNothingMoves(t *testing.T) {
	a := full(t, 1)
	start := time.Now()
	require.False(t, a.enter(t.Context()))
	require.Less(t, time.Since(start), admissionWait, "nobody was let in, so nobody will be")
	require.Zero(t, a.crowd())

	for range admissionCrowd {
		a.waiting.PushBack(make(chan struct{}))
	}
	start = time.Now()
	require.False(t, a.enter(t.Context()))
	require.Less(t, time.Since(start), standstill, "too many to wait behind")
}

func TestAdmissionIsLeftByWhoGoes(t *testing.T) {
	a := full(t, 1)
	ctx, leave := context.WithCancel(t.Context())
	in := make(chan bool)
	go func() { in <- a.enter(ctx) }()
	require.Eventually(t, func() bool { return a.crowd() == 1 }, time.Second, time.Millisecond)
	leave()
	require.False(t, <-in)
	a.leave()
	require.Equal(t, 1, a.free)
}
