package auth

import (
	"errors"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// defaultRolesClaim is the claim with the roles unless another is configured.
const defaultRolesClaim = "roles"

var errRoles = errors.New("the claim of the roles is not an array of texts")

// rolesIn parses an array of role names; names of other roles are ignored. given is false if there
// is no value, or null.
func rolesIn(value jsontext.Value) (roles Roles, given bool, err error) {
	if len(value) == 0 || value.Kind() == 'n' {
		return 0, false, nil
	}
	var names []string
	if json.Unmarshal(value, &names) != nil {
		return 0, false, errRoles
	}
	for _, name := range names {
		roles |= RoleNamed(name)
	}
	return roles, true, nil
}

// claimAt returns the claim at the path, nil if there is none. A dot separates a claim from a
// nested one, or is part of a name: issuers name claims by URLs, such as
// https://shop.example.com/roles. A longer name takes precedence over nesting.
func claimAt(object jsontext.Value, path string) (jsontext.Value, error) {
	if object.Kind() != '{' {
		return nil, nil
	}
	var members map[string]jsontext.Value
	if err := json.Unmarshal(object, &members); err != nil {
		return nil, err
	}
	if value, ok := members[path]; ok {
		return value, nil
	}
	for end := strings.LastIndexByte(path, '.'); end > 0; end = strings.LastIndexByte(path[:end], '.') {
		if inner, ok := members[path[:end]]; ok {
			if value, err := claimAt(inner, path[end+1:]); value != nil || err != nil {
				return value, err
			}
		}
	}
	return nil, nil
}
