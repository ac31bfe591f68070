package apimodel_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/apimodel"
)

// TestShapes holds the exact bytes that clients parse.
func TestShapes(t *testing.T) {
	id := uuid.MustParse("0198c1de-7b1a-7000-8000-00000000000A")
	at := time.Date(2030, 1, 2, 12, 0, 0, 5_999_999, time.FixedZone("", 9*3600))
	price, err := domain.NewMoney(decimal.RequireFromString("12.5"), "USD")
	require.NoError(t, err)

	p := apimodel.ProductOf(domain.Product{
		ID: id, Name: "n", Description: "d", Price: price, InitialStock: 2, TotalStock: 3,
		SaleDate: at, CreatedAt: at, UpdatedAt: at,
	}, 1, at)
	got, err := json.Marshal(p)
	require.NoError(t, err)
	require.Equal(t, `{"id":"0198c1de-7b1a-7000-8000-00000000000a","name":"n","description":"d","price":"12.50","currency":"USD",`+
		`"stock":2,"initialStock":2,"totalStock":3,"saleDate":"2030-01-02T03:00:00.005Z","saleEndDate":null,"paused":false,`+
		`"status":"ON_SALE","createdAt":"2030-01-02T03:00:00.005Z","updatedAt":"2030-01-02T03:00:00.005Z","cancellation":null}`, string(got))

	s, err := json.Marshal(apimodel.SlotOf(domain.Slot{ID: id, Status: domain.ExpiredSlot, EndedAt: at, ReclaimStatus: domain.AutoExpired}, "n", at))
	require.NoError(t, err)
	require.Contains(t, string(s), `"regrantOf":null,"endedAt":"2030-01-02T03:00:00.005Z","reclaimStatus":"AUTO_EXPIRED"}`)
	s, err = json.Marshal(apimodel.SlotOf(domain.Slot{Status: domain.ActiveSlot}, "n", at))
	require.NoError(t, err)
	require.Contains(t, string(s), `"endedAt":null,"reclaimStatus":null}`)
}

func TestRemaining(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	require.Equal(t, int64(59), apimodel.Remaining(domain.ActiveSlot, now.Add(59*time.Second+999*time.Millisecond), now))
	require.Equal(t, int64(0), apimodel.Remaining(domain.ActiveSlot, now.Add(-time.Hour), now))
	require.Equal(t, int64(0), apimodel.Remaining(domain.CompletedSlot, now.Add(time.Hour), now))
}
