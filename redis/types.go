package redis

import (
	"crypto/sha256"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/domain/fairness"
)

// Request is one buyer's wish for a unit of a product.
type Request struct {
	Product uuid.UUID
	Buyer   uuid.UUID
	Key     string // the Idempotency-Key, "" for none
}

// Outcome is what the gate says to a request.
type Outcome int

// The outcomes, in the order in which the gate checks for them.
const (
	// Granted: the buyer has a unit on its way; append it. With HandedOut above
	// 1 somebody else may be appending the same grant.
	Granted Outcome = iota + 1
	// Held: the buyer holds a slot as far as the gate knows. Repeated says that
	// it was asked for with the same key. Look at the claim before answering;
	// where it is gone, Feed and ask again.
	Held
	NotStarted // before Decision.SaleDate
	Ended
	Paused
	SoldOut
)

// String is the outcome's name, for logs and metrics.
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
	Number  int64     // Granted, Held: the grant's arrivalSequence. Else the number of this very refusal
	Unit    int       // Granted, Held
	SlotID  uuid.UUID // Granted, Held: the slot that the grant becomes or became
	KeyHash []byte    // HashKey of the request, nil without a key: goes into claim and event

	// HandedOut says how often this grant was handed out, 1 for a new one. A
	// grant that was never sent may be given back only where it is 1.
	HandedOut int
	// Repeated: a Held whose slot was asked for with the same key. It was no
	// decision and took no number.
	Repeated bool
	SaleDate time.Time // NotStarted: when the sale begins, UTC
}

// PendingGrant is a grant that has not become a slot, nor been withdrawn.
type PendingGrant struct {
	Product   uuid.UUID
	Buyer     uuid.UUID
	Number    int64
	Unit      int
	HandedOut int
	// Nodes are the processes that it was handed to, by their numbers in the list of
	// processes (Options.Node). nil: not all of them are known.
	Nodes []int64
}

// MaxNumber is above every number that a gate gives out.
const MaxNumber = 1 << 53

// SlotID is the slot that the grant would become.
func (p PendingGrant) SlotID() uuid.UUID { return domain.SlotID(p.Product, p.Number) }

// State is what a gate says of itself.
type State struct {
	Exists    bool          // false: there is none; nothing else counts then
	Alive     bool          // of this very Redis process, whole, not closed
	Epoch     int64         //
	Position  int64         // up to which it was told
	Units     int           // in all
	Free      int           //
	Held      int           // by slots
	Pending   int           // grants on their way
	Decided   int64         // numbers given out in this epoch
	LeaseLeft time.Duration // how much longer it may decide, by its own clock

	now int64       // the gate's clock, ms
	at  LogPosition // Position, with the event there if the gate knows it
	on  whereabouts // where it was read
}

// EpochOf is the epoch whose gate gave out the number.
func EpochOf(number int64) int64 { return number / fairness.NumbersPerEpoch }

// keyHashLen is the length of a key's hash: 128 bits, since two keys of one
// buyer and one product are all that must differ.
const keyHashLen = 16

// HashKey is the hash of an Idempotency-Key as gate, claim and event keep it, or
// nil for no key. Product and buyer are hashed with it, so that equal keys of
// two buyers show nothing.
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
