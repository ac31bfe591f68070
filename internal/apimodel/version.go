package apimodel

import (
	"fmt"
	"hash/fnv"
	"strconv"
)

// Version names the state of what an admin can change of the product. It stays the
// same when units are sold or freed, and when the status changes with time.
func (p Product) Version() string {
	end := ""
	if p.SaleEndDate != nil {
		end = p.SaleEndDate.String()
	}
	h := fnv.New64a()
	// Quoted, so that no two products have the same text.
	_, _ = fmt.Fprintf(h, "%s %q %q %s %s %d %d %s %s %t %s %t", p.ID, p.Name, p.Description, p.Price, p.Currency, p.InitialStock, p.TotalStock,
		p.SaleDate, end, p.Paused, p.UpdatedAt, p.Cancellation != nil) // never fails
	const base16 = 16
	return strconv.FormatUint(h.Sum64(), base16)
}
