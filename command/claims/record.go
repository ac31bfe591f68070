package claims

import (
	"time"

	"github.com/google/uuid"
)

// Status is a held slot's.
type Status string

// The statuses of slots that hold a unit.
const (
	Active    Status = "ACTIVE"
	Completed Status = "COMPLETED"
)

// Record is a claim as it stands in the table: who holds which unit.
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
