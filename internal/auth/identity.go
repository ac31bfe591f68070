package auth

import (
	"strings"
	"time"

	"github.com/google/uuid"
)

// Roles is a set of roles.
type Roles uint8

// The roles that a token can carry; a token with neither may do what anybody may.
const (
	Buyer Roles = 1 << iota
	Admin
)

// roleNames is in the order in which roles are written.
var roleNames = []struct {
	role Roles
	name string
}{{Buyer, "buyer"}, {Admin, "admin"}}

// Has reports whether at least one of the roles is in the set.
func (r Roles) Has(any Roles) bool { return r&any != 0 }

// Names returns the set as the claim "roles" has it.
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

// RoleNamed returns the role of that name, 0 for a name that means nothing here.
func RoleNamed(name string) Roles {
	for _, n := range roleNames {
		if n.name == name {
			return n.role
		}
	}
	return 0
}

// Identity is who a verified token speaks for. The zero value is nobody.
type Identity struct {
	// Sub is the pseudonym by which a user is known everywhere: the token's sub if
	// that is a UUID, otherwise one made of iss and sub.
	Sub   uuid.UUID
	Roles Roles
	// Expires is from when on the token is refused: what goes on for longer than a
	// request, a stream, ends then.
	Expires time.Time
}

// Has reports whether the identity has at least one of the roles.
func (i Identity) Has(any Roles) bool { return i.Roles.Has(any) }
