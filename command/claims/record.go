package claims

import (
	"time"

	"github.com/google/uuid"
)

// Status is the status of a slot that holds a unit.
type Status string

// The statuses of slots that hold a unit.
const (
	Active    Status = "ACTIVE"
	Completed Status = "COMPLETED"
)

// Record is a row of slot_claims: it assigns a unit to a slot.
type Record struct {
	Product    uuid.UUID
	SlotID     uuid.UUID
	Number     int64 // arrivalSequence
	Unit       int
	Buyer      uuid.UUID
	KeyHash    []byte // nil for none
	Status     Status
	AcquiredAt time.Time // UTC
	Deadline   time.Time // UTC
	Position   int64     // of its SlotAcquired
}
