package redis

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// gateKeys returns the keys of a product's gate. All share the hash tag {id}, so that a
// Redis Cluster keeps them together, and every script declares all five in this
// order. prefix is the installation's (Options.KeyPrefix).
func gateKeys(prefix string, product uuid.UUID) []string {
	prefix = productPrefix(prefix, product)
	return []string{
		prefix + "stock",   // hash: epoch, instance id, lease, position, sale, counters, the open run
		prefix + "queue",   // list: units that were returned
		prefix + "holders", // hash: buyer (16 bytes) -> pending grant or slot held
		prefix + "pending", // sorted set: buyers of pending grants, by number
		prefix + "log",     // list: closed lines of the decision log
	}
}

// buildKeys are the keys of one attempt of a rebuild.
type buildKeys struct{ token, holders, queue string }

func newBuildKeys(prefix string, product uuid.UUID) buildKeys {
	prefix = productPrefix(prefix, product) + "build:" + uuid.NewString() + ":"
	return buildKeys{token: prefix + "token", holders: prefix + "holders", queue: prefix + "queue"}
}

func productPrefix(prefix string, product uuid.UUID) string {
	return prefix + "product:{" + product.String() + "}:"
}

// keys returns the keys of a product's gate.
func (g *Gate) keys(product uuid.UUID) []string { return gateKeys(g.keyPrefix, product) }

// CheckKeyPrefix returns an error if a key prefix is invalid. A brace would move the keys
// of all products to one slot of a Redis Cluster.
func CheckKeyPrefix(prefix string) error {
	if len(prefix) > maxKeyPrefix || strings.ContainsFunc(prefix, func(r rune) bool { return r <= ' ' || r > '~' || r == '{' || r == '}' }) {
		return fmt.Errorf("must have at most %d printable ASCII characters other than space and braces", maxKeyPrefix)
	}
	return nil
}

const maxKeyPrefix = 64
