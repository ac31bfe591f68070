package eventstore

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// Identity names one history of the log. Positions of two identities are not
// comparable: another store gave them to other events, and another incarnation
// of the same store did so above the position that both share.
type Identity struct {
	// Store is the store's own id. Another database, or one that was made anew,
	// has another; a restored backup has the same.
	Store uuid.UUID
	// Incarnation counts the histories of the store, from 1. A restore to an
	// earlier moment begins the next one (`dopamine recover`).
	Incarnation int64
}

// String returns the form that records carry in Kafka: <store id>/<incarnation>.
func (i Identity) String() string {
	return i.Store.String() + "/" + strconv.FormatInt(i.Incarnation, 10)
}

// ParseIdentity reads what String returns.
func ParseIdentity(text string) (Identity, error) {
	store, incarnation, found := strings.Cut(text, "/")
	if !found {
		return Identity{}, fmt.Errorf("eventstore: identity %q is not <store id>/<incarnation>", text)
	}
	var i Identity
	var err error
	if i.Store, err = uuid.Parse(store); err != nil {
		return Identity{}, fmt.Errorf("eventstore: identity %q: store id: %w", text, err)
	}
	if i.Incarnation, err = strconv.ParseInt(incarnation, 10, 64); err != nil || i.Incarnation < 1 {
		return Identity{}, fmt.Errorf("eventstore: identity %q: the incarnation must be an integer from 1", text)
	}
	return i, nil
}

// Identity returns the store's id and its current incarnation.
func (r *Reader) Identity(ctx context.Context) (Identity, error) {
	var i Identity
	err := r.pool.QueryRow(ctx, `
		select id, (select incarnation from store_incarnations order by incarnation desc limit 1)
		from store_identity`).Scan((*[16]byte)(&i.Store), &i.Incarnation)
	if err != nil {
		return Identity{}, fmt.Errorf("read the store's identity: %w", err)
	}
	return i, nil
}
