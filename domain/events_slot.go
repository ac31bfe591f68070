package domain

import (
	"time"

	"github.com/google/uuid"
)

// ReclaimStatus is the way in which a slot expired.
type ReclaimStatus string

// The ways in which a slot expires.
const (
	AutoExpired     ReclaimStatus = "AUTO_EXPIRED"     // its deadline passed
	ManualReclaimed ReclaimStatus = "MANUAL_RECLAIMED" // an admin reclaimed it
	BuyerReleased   ReclaimStatus = "BUYER_RELEASED"   // its owner released it
)

// SlotAcquired begins a slot's stream. The slot's acquisition time is the
// envelope's RecordedAt, its deadline that plus TTL.
type SlotAcquired struct {
	UserID          uuid.UUID  `json:"userId"`
	Unit            int        `json:"unit"` // 1..total stock
	ArrivalSequence int64      `json:"arrivalSequence"`
	TTLMillis       int64      `json:"ttl"`               // life of the slot, ms
	WarningMillis   int64      `json:"warning"`           // how long before the deadline to warn, ms; no warning if it is not below TTLMillis
	KeyHash         []byte     `json:"keyHash,omitempty"` // hash of the Idempotency-Key of the acquire request
	RegrantOf       *uuid.UUID `json:"regrantOf,omitempty"`
}

// TTL returns the life of the slot.
func (e SlotAcquired) TTL() time.Duration { return time.Duration(e.TTLMillis) * time.Millisecond }

// SlotExpiringSoon warns the owner before the deadline.
type SlotExpiringSoon struct {
	UserID   uuid.UUID `json:"userId"`
	Deadline time.Time `json:"deadline"`
}

// SlotExpired ends a slot without a purchase; its unit is free.
type SlotExpired struct {
	UserID          uuid.UUID     `json:"userId"`
	Unit            int           `json:"unit"`
	ArrivalSequence int64         `json:"arrivalSequence"`
	Deadline        time.Time     `json:"deadline"` // the slot's expirationTimestamp; the moment of its end is the envelope's RecordedAt
	ReclaimStatus   ReclaimStatus `json:"reclaimStatus"`
}

// SlotReturned ends the claim of a purchase whose money was returned: its unit is on
// sale again and its buyer may acquire again. A COMPLETED slot becomes RETURNED.
type SlotReturned struct {
	UserID          uuid.UUID `json:"userId"`
	PaymentID       uuid.UUID `json:"paymentId"`
	Unit            int       `json:"unit"`
	ArrivalSequence int64     `json:"arrivalSequence"`
}

// EventType implements Event.
func (SlotReturned) EventType() string     { return "SlotReturned" }
func (SlotAcquired) EventType() string     { return "SlotAcquired" }
func (SlotExpiringSoon) EventType() string { return "SlotExpiringSoon" }
func (SlotExpired) EventType() string      { return "SlotExpired" }

// slotNamespace makes slot ids a function of product and number.
var slotNamespace = uuid.MustParse("6f4a2c1e-8d35-5b7a-9c10-d0b4a111e5f0")

// SlotID returns the id of the slot that a grant becomes. It is derived from product
// and arrival sequence, so that every append of the same grant creates the
// same slot (RFC 9562, version 5).
func SlotID(product uuid.UUID, arrivalSequence int64) uuid.UUID {
	var name [24]byte
	copy(name[:16], product[:])
	for i := range 8 {
		name[16+i] = byte(arrivalSequence >> (56 - 8*i))
	}
	return uuid.NewSHA1(slotNamespace, name[:])
}
