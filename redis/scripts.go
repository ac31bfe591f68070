package redis

import (
	_ "embed"

	goredis "github.com/redis/go-redis/v9"
)

// script is one of the gate's. An instanced one gets the instance id of the connection
// that it runs on as ARGV[1].
type script struct {
	name      string
	instanced bool
	*goredis.Script
}

func newScript(name, source string, instanced bool) *script {
	return &script{name: name, instanced: instanced, Script: goredis.NewScript(gateSource + source)}
}

//go:embed lua/gate.lua
var gateSource string

var (
	//go:embed lua/decide.lua
	decideSource string
	//go:embed lua/look.lua
	lookSource string
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

// What needs no instance id reads or ends a gate, which does no harm to a dead one.
var (
	decideScript   = newScript("decide", decideSource, true)
	lookScript     = newScript("look", lookSource, true)
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
