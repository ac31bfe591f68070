package auth

import (
	"strings"
	"time"

	"github.com/google/uuid"
)

// Roles is a set of roles.
type Roles uint8

// The roles that a token can have. A token with none of them has the same access as a request without a
// token.
const (
	Buyer Roles = 1 << iota
	Admin
)

// roleNames is in the order in which roles are written. Help and error texts follow from it; the
// OpenAPI documents repeat the names, and tools/authmatrix compares them.
var roleNames = []struct {
	role Roles
	name string
}{{Buyer, "buyer"}, {Admin, "admin"}}

// RoleNames returns the names of all roles.
func RoleNames() []string {
	names := []string{}
	for _, n := range roleNames {
		names = append(names, n.name)
	}
	return names
}

// RolesUsage is the help text of a list of roles.
func RolesUsage() string {
	return "one or more of " + strings.Join(RoleNames(), ", ") + ", comma-separated"
}

// Has reports whether at least one of the roles is in the set.
func (r Roles) Has(any Roles) bool { return r&any != 0 }

// Names returns the set in the form of the claim "roles".
func (r Roles) Names() []string {
	names := []string{}
	for _, n := range roleNames {
		if r.Has(n.role) {
			names = append(names, n.name)
		}
	}
	return names
}

// String returns the names, comma-separated.
func (r Roles) String() string { return strings.Join(r.Names(), ",") }

// RoleNamed returns the role with that name, 0 if the name is not a known role.
func RoleNamed(name string) Roles {
	for _, n := range roleNames {
		if n.name == name {
			return n.role
		}
	}
	return 0
}

// Identity is the user of a verified token. The zero value is an anonymous caller.
type Identity struct {
	// Sub is the id of the user in the whole system: the token's sub if that is a UUID, otherwise
	// one derived from iss and sub.
	Sub   uuid.UUID
	Roles Roles
	// Expires is the time from which the token is refused. Streams, which last longer than a
	// request, end then.
	Expires time.Time
}

// Has reports whether the identity has at least one of the roles.
func (i Identity) Has(any Roles) bool { return i.Roles.Has(any) }
