package domain_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
)

const (
	ttl            = 30 * time.Minute
	warning        = 5 * time.Minute
	paymentTimeout = 5 * time.Minute
)

var (
	slotID    = uuid.MustParse("11111111-1111-4111-8111-111111111111")
	productID = uuid.MustParse("22222222-2222-4222-8222-222222222222")
	owner     = domain.Caller{User: uuid.MustParse("33333333-3333-4333-8333-333333333333"), Buyer: true}
	acquired  = time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)
	deadline  = acquired.Add(ttl)
	price     = won(259000)
)

func won(amount int64) domain.Money {
	m, err := domain.NewMoney(decimal.NewFromInt(amount), "KRW")
	if err != nil {
		panic(err)
	}
	return m
}

// happen returns s after events, each recorded at the time at.
func happen(s domain.Slot, at time.Time, events ...domain.Event) domain.Slot {
	for _, e := range events {
		s = domain.EvolveSlot(s, domain.Envelope{
			StreamID: slotID, ProductID: productID, StreamVersion: s.Version + 1, RecordedAt: at, Event: e,
		})
	}
	return s
}

func active(t *testing.T) domain.Slot {
	t.Helper()
	s := happen(domain.Slot{}, acquired, domain.SlotAcquired{
		UserID: owner.User, Unit: 7, ArrivalSequence: 12,
		TTLMillis: ttl.Milliseconds(), WarningMillis: warning.Milliseconds(),
	})
	require.Equal(t, domain.ActiveSlot, s.Status)
	return s
}

func expired(how domain.ReclaimStatus) domain.SlotExpired {
	return domain.SlotExpired{UserID: owner.User, Unit: 7, ArrivalSequence: 12, Deadline: deadline, ReclaimStatus: how}
}

func TestEvolveSlot_UsesRecordedTimes(t *testing.T) {
	s := active(t)
	require.Equal(t, acquired, s.AcquiredAt)
	require.Equal(t, deadline, s.Deadline)
	require.Equal(t, 1, s.Version)
	require.True(t, s.Exists())
	require.False(t, domain.Slot{}.Exists())

	s = happen(s, deadline.Add(time.Second), expired(domain.AutoExpired))
	require.Equal(t, domain.ExpiredSlot, s.Status)
	require.Equal(t, deadline.Add(time.Second), s.EndedAt)
	require.Equal(t, domain.AutoExpired, s.ReclaimStatus)
	require.Equal(t, deadline, s.Deadline, "the deadline is unchanged")
}

func TestRelease(t *testing.T) {
	stranger := domain.Caller{User: uuid.MustParse("44444444-4444-4444-8444-444444444444"), Buyer: true}
	ownerAndAdmin := domain.Caller{User: owner.User, Buyer: true, Admin: true}
	adminOfSameName := domain.Caller{User: owner.User, Admin: true}

	for name, c := range map[string]struct {
		by   domain.Caller
		want domain.ReclaimStatus
	}{
		"owner gives up":                     {owner, domain.BuyerReleased},
		"admin reclaims":                     {admin, domain.ManualReclaimed},
		"owner who is an admin too gives up": {ownerAndAdmin, domain.BuyerReleased},
		"owner without the role of a buyer":  {adminOfSameName, domain.ManualReclaimed},
	} {
		t.Run(name, func(t *testing.T) {
			events, err := active(t).Release(c.by)
			require.NoError(t, err)
			require.Equal(t, []domain.Event{expired(c.want)}, events)
		})
	}

	t.Run("a stranger is refused, whatever the slot's state", func(t *testing.T) {
		var notOwner *domain.NotOwnerError
		_, err := active(t).Release(stranger)
		require.ErrorAs(t, err, &notOwner)
		_, err = happen(active(t), acquired, expired(domain.BuyerReleased)).Release(stranger)
		require.ErrorAs(t, err, &notOwner)
	})
	t.Run("a slot that has ended is told how", func(t *testing.T) {
		var notActive *domain.SlotNotActiveError
		_, err := happen(active(t), acquired, expired(domain.BuyerReleased)).Release(owner)
		require.ErrorAs(t, err, &notActive)
		require.Equal(t, domain.ExpiredSlot, notActive.Status)
	})
}

func TestExpire_FromDeadline(t *testing.T) {
	s := active(t)
	require.Empty(t, s.Expire(deadline.Add(-time.Millisecond), paymentTimeout))
	require.Equal(t, []domain.Event{expired(domain.AutoExpired)}, s.Expire(deadline, paymentTimeout))
	require.Equal(t, deadline, s.DueAt(paymentTimeout))
	ended := happen(s, deadline, expired(domain.AutoExpired))
	require.Empty(t, ended.Expire(deadline.Add(time.Hour), paymentTimeout))
}

func TestWarn_OnceBeforeDeadline(t *testing.T) {
	s := active(t)
	told := []domain.Event{domain.SlotExpiringSoon{UserID: owner.User, Deadline: deadline}}
	require.Empty(t, s.Warn(deadline.Add(-warning-time.Millisecond)))
	require.Equal(t, told, s.Warn(deadline.Add(-warning)))
	require.Equal(t, told, s.Warn(deadline.Add(-time.Millisecond)))
	require.Empty(t, s.Warn(deadline), "no warning after the deadline")
	require.Empty(t, happen(s, acquired, told...).Warn(deadline.Add(-time.Second)), "warned once")
	require.Empty(t, happen(s, acquired, expired(domain.BuyerReleased)).Warn(deadline.Add(-time.Second)))

	short := happen(domain.Slot{}, acquired, domain.SlotAcquired{UserID: owner.User, Unit: 1, ArrivalSequence: 1,
		TTLMillis: warning.Milliseconds(), WarningMillis: warning.Milliseconds()})
	require.Empty(t, short.Warn(acquired.Add(time.Second)), "its whole life is no longer than the warning time")
}

func TestEvolveSlot_KeepsEarlierState(t *testing.T) {
	started := happen(active(t), acquired, domain.PaymentInitiated{UserID: owner.User, PaymentID: productID, Price: price})
	completed := happen(started, acquired, domain.PaymentCompleted{UserID: owner.User, PaymentID: productID, Price: price})
	require.Equal(t, domain.PendingPayment, started.Payments[0].Status)
	require.Equal(t, domain.SuccessfulPayment, completed.Payments[0].Status)
	require.Equal(t, domain.ActiveSlot, started.Status)
	require.Equal(t, domain.CompletedSlot, completed.Status)
}
