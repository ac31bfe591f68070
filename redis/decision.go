package redis

import (
	"crypto/sha256"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/domain/fairness"
)

// Request is a buyer's request for a unit of a product.
type Request struct {
	Product uuid.UUID
	Buyer   uuid.UUID
	Key     string // the Idempotency-Key, "" for none
}

// Outcome is how the gate decided a request.
type Outcome int

// The outcomes. decide.lua has the order of the checks, which contract 4.3 promises.
const (
	// Granted: the buyer has a pending grant; append it. If Deliveries is above 1,
	// another request may be appending the same grant.
	Granted Outcome = iota + 1
	// Held: the buyer holds a slot as far as the gate knows. Repeated reports whether
	// that slot was acquired with the same key. Read the claim before answering;
	// if it is gone, call Sync and decide again.
	Held
	NotStarted // before Decision.SaleDate
	Ended
	Paused
	SoldOut
)

// String returns the outcome's name, for logs and metrics.
func (o Outcome) String() string {
	switch o {
	case Granted:
		return "granted"
	case Held:
		return "held"
	case NotStarted:
		return "not-started"
	case Ended:
		return "ended"
	case Paused:
		return "paused"
	case SoldOut:
		return "sold-out"
	}
	return "outcome " + strconv.Itoa(int(o))
}

// Decision is the gate's answer to a request.
type Decision struct {
	Outcome Outcome
	Product uuid.UUID
	Buyer   uuid.UUID
	Epoch   int64     // of the gate that decided
	Number  int64     // Granted, Held: the grant's arrivalSequence. Otherwise the number of this refusal
	Unit    int       // Granted, Held
	SlotID  uuid.UUID // Granted, Held: the slot that the grant becomes or became
	KeyHash []byte    // HashKey of the request, nil without a key: goes into claim and event

	// Deliveries counts how often this grant was returned to a request, 1 for a new one.
	// A grant that was never sent may be given back only if it is 1.
	Deliveries int
	// Repeated: a Held whose slot was acquired with the same key. It was no
	// decision and took no number.
	Repeated bool
	SaleDate time.Time // NotStarted: when the sale begins, UTC
}

// PendingGrant is a grant that has neither become a slot nor been withdrawn.
type PendingGrant struct {
	Product    uuid.UUID
	Buyer      uuid.UUID
	Number     int64
	Unit       int
	Deliveries int
	// Nodes are the processes that received the grant, by their numbers in the list of
	// processes (Options.Node). nil: not all of them are known.
	Nodes []int64
	// Rebuild is the id of the rebuild that made the gate, zero if not known.
	Rebuild uuid.UUID
}

// MaxNumber is above every number that a gate assigns.
const MaxNumber = 1 << 53

// SlotID returns the id of the slot that the grant would become.
func (p PendingGrant) SlotID() uuid.UUID { return domain.SlotID(p.Product, p.Number) }

// State is the state of a gate.
type State struct {
	Exists    bool // false: there is none, and the other fields are zero
	Alive     bool // of this very Redis process, complete, not closed
	Epoch     int64
	Position  int64 // up to which events were applied
	Units     int   // in total
	Free      int
	Held      int           // by slots
	Pending   int           // pending grants
	Decided   int64         // numbers assigned in this epoch
	LeaseLeft time.Duration // how much longer it may decide, by its own clock

	rebuild uuid.UUID // the rebuild that made it, zero if not known

	now int64       // the gate's clock, ms
	at  LogPosition // Position, with the event there if the gate knows it
	on  callTarget  // where it was read
}

// EpochOf returns the epoch whose gate assigned the number.
func EpochOf(number int64) int64 { return number / fairness.NumbersPerEpoch }

// keyHashLen is the length of a key's hash: 128 bits are enough, since only the
// keys of one buyer and one product must differ.
const keyHashLen = 16

// HashKey returns the hash of an Idempotency-Key as gate, claim and event store it, or
// nil for no key. Product and buyer are part of the hash, so that equal keys of
// two buyers cannot be recognized.
func HashKey(product, buyer uuid.UUID, key string) []byte {
	if key == "" {
		return nil
	}
	h := sha256.New()
	h.Write(product[:])
	h.Write(buyer[:])
	h.Write([]byte(key))
	return h.Sum(nil)[:keyHashLen]
}
