// Package status is the report about the whole system for operators: gathered from parts, any of
// which may be unavailable, and shown as a table or as JSON.
//
// It does not depend on the parts: the caller passes a function for each.
package status

import (
	"time"

	"github.com/google/uuid"
)

// Report is the state of the system at one moment. Parts that could not be reached are missing and
// named in Unreachable.
type Report struct {
	At    time.Time `json:"at"`
	Store *Store    `json:"store"`
	Relay *Relay    `json:"relay"`
	// ProjectorsBlocked is the reason why projectors apply nothing; null if they do.
	ProjectorsBlocked *Blocked `json:"projectorsBlocked"`
	// Processes are those that are in the list of the write side; null if it could not be read.
	Processes *Processes `json:"processes"`

	Projections []Projection  `json:"projections"`
	Replays     []Replay      `json:"replays"`
	Parked      []Parked      `json:"parked"`
	Gates       []Gate        `json:"gates"`
	Money       []Money       `json:"money"`
	Unreachable []Unreachable `json:"unreachable"`
}

// Store is the event store.
type Store struct {
	Head     int64  `json:"head"`     // position of its last event
	Identity string `json:"identity"` // <store id>/<incarnation>
}

// Relay is how far events are published to Kafka.
type Relay struct {
	Position int64      `json:"position"`
	Lag      int64      `json:"lag"`     // events of the store beyond it
	SavedAt  *time.Time `json:"savedAt"` // when it last got further; null: never
	Blocked  *Blocked   `json:"blocked"` // why it publishes nothing; null if it does
}

// Processes counts the processes of the write side.
type Processes struct {
	CommandAPIs int `json:"commandApis"`
	Workers     int `json:"workers"` // 0: slots do not expire, and lost callbacks are not queried for
	Silent      int `json:"silent"`  // without a sign of life for two seconds; removed after ten minutes
}

// Blocked is the reason why a process does nothing until an operator acts.
type Blocked struct {
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// Projection is one read model.
type Projection struct {
	Name        string       `json:"name"`
	Position    *int64       `json:"position"` // everything up to it is applied, parked or skipped; null if the store is unavailable
	Lag         *int64       `json:"lag"`      // number of later events in the store; null if the store is unavailable
	Generation  int          `json:"generation"`
	Generations []Generation `json:"generations"`
	Parked      int64        `json:"parked"`     // events set aside
	ParkedKeys  int64        `json:"parkedKeys"` // rows that they belong to
	Skipped     int64        `json:"skipped"`
}

// Generation is one copy of a projection's tables.
type Generation struct {
	Number int    `json:"number"`
	State  string `json:"state"` // live, building or old
}

// Replay is a running replay, or the last one of its projection if that failed.
type Replay struct {
	Projection      string    `json:"projection"`
	Generation      int       `json:"generation"`
	Source          string    `json:"source"` // store or kafka
	Phase           string    `json:"phase"`
	Running         bool      `json:"running"`
	Events          int64     `json:"events"`
	Position        int64     `json:"position"`
	Target          int64     `json:"target"`
	EventsPerSecond float64   `json:"eventsPerSecond"`
	ETASeconds      *float64  `json:"etaSeconds"` // null if unknown
	StartedAt       time.Time `json:"startedAt"`
	Error           string    `json:"error,omitempty"`
}

// Parked is the event that blocks a row, with the number of events behind it.
type Parked struct {
	Projection string    `json:"projection"`
	Key        uuid.UUID `json:"key"`
	Position   int64     `json:"position"`
	Type       string    `json:"type"`
	Events     int64     `json:"events"` // itself and those behind it
	Error      string    `json:"error"`
	ParkedAt   time.Time `json:"parkedAt"`
}

// Gate is one product's gate.
type Gate struct {
	Product    uuid.UUID `json:"product"`
	State      string    `json:"state"` // open, none or lost
	Epoch      int64     `json:"epoch"` // the epoch that may decide, according to Postgres; -1: never had a gate
	Units      int       `json:"units"`
	Free       int       `json:"free"`
	Held       int       `json:"held"`
	Pending    int       `json:"pending"` // grants on their way
	Claims     int       `json:"claims"`  // units held by slots, according to Postgres
	Difference string    `json:"difference,omitempty"`
}

// Money is an item of a payment that needs an operator.
type Money struct {
	Payment uuid.UUID  `json:"payment"`
	Refund  *uuid.UUID `json:"refund,omitempty"`
	Cause   string     `json:"cause"`
	Code    string     `json:"code,omitempty"`
	Since   time.Time  `json:"since"`
}

// Unreachable is a part that did not respond.
type Unreachable struct {
	Part  string `json:"part"`
	Error string `json:"error"`
}
