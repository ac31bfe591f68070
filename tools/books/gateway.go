package books

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

// Gateway is a gateway's books by the system's payment id.
type Gateway map[uuid.UUID]*Entry

// Entry is the gateway's record of a payment, over all its charges.
type Entry struct {
	Sums
	Disputes int
}

// page is the response of the simulator's GET /balance.
type page struct {
	Payments []struct {
		Reference uuid.UUID       `json:"reference"`
		Status    string          `json:"status"`
		Amount    decimal.Decimal `json:"amount"`
		Refunded  decimal.Decimal `json:"refunded"`
		Reversed  decimal.Decimal `json:"reversed"`
		DisputeID *string         `json:"disputeId"`
	} `json:"payments"`
}

// Read reads the gateway's books; nil if it has no such page.
func Read(ctx context.Context, client *http.Client, gateway string) (Gateway, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, gateway+"/balance", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read the gateway's books: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read the gateway's books: status %d", resp.StatusCode)
	}
	var read page
	if err := json.NewDecoder(resp.Body).Decode(&read); err != nil {
		return nil, fmt.Errorf("read the gateway's books: %w", err)
	}
	all := Gateway{}
	for _, p := range read.Payments {
		e := all[p.Reference]
		if e == nil {
			e = &Entry{}
			all[p.Reference] = e
		}
		if p.Status == "succeeded" {
			e.Taken = e.Taken.Add(p.Amount)
		}
		e.Refunded, e.Reversed = e.Refunded.Add(p.Refunded), e.Reversed.Add(p.Reversed)
		if p.DisputeID != nil {
			e.Disputes++
		}
	}
	return all, nil
}
