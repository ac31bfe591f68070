package payments

import (
	"context"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
)

type key struct{}

func TestBackground_FinishesCallsOnClose(t *testing.T) {
	a := newBackground()
	begun, goOn, done := make(chan struct{}), make(chan struct{}), false
	require.NotNil(t, a.try(context.WithValue(t.Context(), key{}, 1), func(ctx context.Context) {
		close(begun)
		<-goOn
		done = ctx.Err() == nil && ctx.Value(key{}) == 1
	}))
	<-begun
	closed := make(chan error, 1)
	go func() { closed <- a.close(t.Context()) }()
	close(goOn)
	require.NoError(t, <-closed)
	require.True(t, done)
	require.Nil(t, a.try(t.Context(), func(context.Context) { t.Error("begun after the end") }))
	require.NoError(t, a.close(t.Context()), "twice")
}

func TestBackground_CancelsCallsAfterTimeout(t *testing.T) {
	a := newBackground()
	require.NotNil(t, a.try(t.Context(), func(ctx context.Context) { <-ctx.Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.ErrorIs(t, a.close(ctx), context.DeadlineExceeded)
}

func TestBackground_IsBounded(t *testing.T) {
	a := newBackground()
	goOn := make(chan struct{})
	for range maxBackgroundCalls {
		require.NotNil(t, a.try(t.Context(), func(context.Context) { <-goOn }))
	}
	require.Nil(t, a.try(t.Context(), func(context.Context) {}))
	close(goOn)
	require.NoError(t, a.close(t.Context()))
}

// Equal bodies by value are equal; each of the body's values counts.
func TestStart_ComparesBodiesByValue(t *testing.T) {
	money := func(amount, code string) domain.Money {
		m, err := domain.NewMoney(decimal.RequireFromString(amount), code)
		require.NoError(t, err)
		return m
	}
	one := Start{Offered: money("10", "KRW"), Method: domain.Card}
	same := Start{Offered: money("1e1", "KRW"), Method: domain.Card, Key: [16]byte{1}}
	require.Equal(t, one.bodyHash(), same.bodyHash())
	for _, other := range []Start{
		{Offered: money("11", "KRW"), Method: domain.Card},
		{Offered: money("10", "USD"), Method: domain.Card},
		{Offered: money("10", "KRW"), Method: domain.Wallet},
		{Offered: money("10", "KRW"), Method: domain.Card, Slot: [16]byte{1}},
	} {
		require.NotEqual(t, one.bodyHash(), other.bodyHash())
	}
}

// A gateway that does not answer uses up a part only of the time in which a
// process has to stop.
func TestClose_DoesNotWaitForHungGateway(t *testing.T) {
	s := &Service{background: newBackground()}
	require.NotNil(t, s.background.try(t.Context(), func(ctx context.Context) { <-ctx.Done() }))
	const stop = 10 * time.Second // a process has
	ctx, cancel := context.WithTimeout(t.Context(), stop)
	defer cancel()
	began := time.Now()
	require.ErrorIs(t, s.Close(ctx), context.DeadlineExceeded)
	require.Less(t, time.Since(began), stop/2)
}
