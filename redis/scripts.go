package redis

import (
	_ "embed"

	goredis "github.com/redis/go-redis/v9"

	"github.com/dopaminestore/dopamine/redis/topology"
)

// newScript returns a script of the gate.
func newScript(name, source string, instanced bool) *topology.Script {
	return &topology.Script{Name: name, Instanced: instanced, Script: goredis.NewScript(gateSource + source)}
}

//go:embed lua/gate.lua
var gateSource string

var (
	//go:embed lua/decide.lua
	decideSource string
	//go:embed lua/state.lua
	stateSource string
	//go:embed lua/lease.lua
	leaseSource string
	//go:embed lua/sync.lua
	syncSource string
	//go:embed lua/giveback.lua
	giveBackSource string
	//go:embed lua/pending.lua
	pendingSource string
	//go:embed lua/lines.lua
	linesSource string
	//go:embed lua/trim.lua
	trimSource string
	//go:embed lua/close.lua
	closeSource string
	//go:embed lua/open.lua
	openSource string
	//go:embed lua/drop.lua
	dropSource string
)

// Scripts without an instance id read or end a gate, which is harmless for a dead one.
var (
	decideScript   = newScript("decide", decideSource, true)
	stateScript    = newScript("state", stateSource, true)
	leaseScript    = newScript("lease", leaseSource, true)
	syncScript     = newScript("sync", syncSource, true)
	giveBackScript = newScript("give-back", giveBackSource, true)
	pendingScript  = newScript("pending", pendingSource, true)
	openScript     = newScript("open", openSource, true)
	linesScript    = newScript("lines", linesSource, false)
	trimScript     = newScript("trim", trimSource, false)
	closeScript    = newScript("close", closeSource, false)
	dropScript     = newScript("drop", dropSource, false)
)
