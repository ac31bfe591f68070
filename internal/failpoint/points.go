package failpoint

import "slices"

// Point names a place in the code.
type Point string

// The points, by protocol. Every point that can be armed is declared here.
const (
	// Appending events: `before` has the append lock and has written nothing, `after` follows a
	// commit before any caller knows of it. An error after it simulates a lost response: the
	// outcome of the commit is unknown.
	AppendBeforeCommit Point = "eventstore/before-commit"
	AppendAfterCommit  Point = "eventstore/after-commit"

	// The rows of gates in Postgres. `in` has the append lock and the rows.
	RaiseBefore Point = "gatestore/before-raise"
	RaiseInside Point = "gatestore/in-raise"
	RaiseAfter  Point = "gatestore/after-raise"
	LeaseBefore Point = "gatestore/before-lease"
	LeaseAfter  Point = "gatestore/after-lease"
	ShipBefore  Point = "gatestore/before-ship"
	ShipAfter   Point = "gatestore/after-ship"

	// Calls to the gate in Redis. An error after a call simulates a lost response.
	DecideBefore    Point = "gate/before-decide"
	DecideAfter     Point = "gate/after-decide"
	SyncBefore      Point = "gate/before-sync"
	SyncAfter       Point = "gate/after-sync"
	GateLeaseBefore Point = "gate/before-lease"
	GateLeaseAfter  Point = "gate/after-lease"
	TrimBefore      Point = "gate/before-trim"
	TrimAfter       Point = "gate/after-trim"

	// The steps of a rebuild, in their order.
	RebuildProbe    Point = "rebuild/before-probe"
	RebuildClose    Point = "rebuild/before-close"
	RebuildSalvage  Point = "rebuild/before-salvage"
	RebuildSnapshot Point = "rebuild/before-snapshot"
	RebuildPiece    Point = "rebuild/before-piece"
	RebuildOpen     Point = "rebuild/before-open"
	RebuildOpened   Point = "rebuild/after-open"

	// Relay: `leads` holds the lock and has started nothing.
	RelayLeads            Point = "relay/leads"
	PublishBefore         Point = "relay/before-publish"
	PublishAfter          Point = "relay/after-publish"
	RelayCheckpointBefore Point = "relay/before-checkpoint"
	RelayCheckpointAfter  Point = "relay/after-checkpoint"

	// Projector: `take-over` is inside the transaction that begins a session; at `moved` the
	// checkpoint's row is locked and advanced.
	ProjectTakeOver     Point = "projector/take-over"
	ProjectMoved        Point = "projector/checkpoint-moved"
	ProjectBeforeCommit Point = "projector/before-commit"
	ProjectAfterCommit  Point = "projector/after-commit"

	// Replay.
	ReplayPage       Point = "replay/in-page"
	SwapBefore       Point = "replay/before-swap"
	SwapBeforeCommit Point = "replay/before-commit"
	SwapAfter        Point = "replay/after-swap"

	// Requests to the payment gateway. An error after one simulates a lost response.
	GatewayBefore Point = "gateway/before-request"
	GatewayAfter  Point = "gateway/after-request"
)

var points = []Point{
	AppendBeforeCommit, AppendAfterCommit,
	RaiseBefore, RaiseInside, RaiseAfter, LeaseBefore, LeaseAfter, ShipBefore, ShipAfter,
	DecideBefore, DecideAfter, SyncBefore, SyncAfter, GateLeaseBefore, GateLeaseAfter, TrimBefore, TrimAfter,
	RebuildProbe, RebuildClose, RebuildSalvage, RebuildSnapshot, RebuildPiece, RebuildOpen, RebuildOpened,
	RelayLeads, PublishBefore, PublishAfter, RelayCheckpointBefore, RelayCheckpointAfter,
	ProjectTakeOver, ProjectMoved, ProjectBeforeCommit, ProjectAfterCommit,
	ReplayPage, SwapBefore, SwapBeforeCommit, SwapAfter,
	GatewayBefore, GatewayAfter,
}

// Names lists every point, in the order of declaration.
func Names() []Point { return slices.Clone(points) }
