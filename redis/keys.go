package redis

import (
	"github.com/google/uuid"
)

// All keys of a product share the hash tag {id}, so that a Redis Cluster keeps
// them together, and every script declares the five of them in this order.
func gateKeys(product uuid.UUID) []string {
	prefix := keyPrefix(product)
	return []string{
		prefix + "stock",   // hash: epoch, instance id, lease, position, sale, counters, the open run
		prefix + "queue",   // list: units that were returned
		prefix + "holders", // hash: buyer (16 bytes) -> grant on its way or slot held
		prefix + "pending", // sorted set: buyers of grants on their way, by number
		prefix + "log",     // list: closed lines of the decision log
	}
}

// buildKeys are the keys of one attempt of a rebuild.
type buildKeys struct{ token, holders, queue string }

func newBuildKeys(product uuid.UUID) buildKeys {
	prefix := keyPrefix(product) + "build:" + uuid.NewString() + ":"
	return buildKeys{token: prefix + "token", holders: prefix + "holders", queue: prefix + "queue"}
}

func keyPrefix(product uuid.UUID) string { return "product:{" + product.String() + "}:" }
