package eventstore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Identity names one history of the log. Positions of two identities are not
// comparable: another store assigned them to other events, and another incarnation
// of the same store did so above the position that both share.
type Identity struct {
	// Store is the store's own id. Another database, or a recreated one,
	// has another id; a restored backup has the same.
	Store uuid.UUID
	// Incarnation counts the histories of the store, from 1. A restore to an
	// earlier moment begins the next one (`dopamine recover`).
	Incarnation int64
}

// String returns the form that records carry in Kafka: <store id>/<incarnation>.
func (i Identity) String() string {
	return i.Store.String() + "/" + strconv.FormatInt(i.Incarnation, 10)
}

// ParseIdentity parses the form that String returns.
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
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	var i Identity
	err := r.pool.QueryRow(ctx, `
		select id, (select incarnation from store_incarnations order by incarnation desc limit 1)
		from store_identity`).Scan((*[16]byte)(&i.Store), &i.Incarnation)
	if err != nil {
		return Identity{}, fmt.Errorf("read the store's identity: %w", err)
	}
	return i, nil
}

// Origin classifies the history that a record names, relative to a store.
type Origin int

const (
	// Unnamed: published before records named their history, or by another program.
	Unnamed Origin = iota
	// Foreign: of another store.
	Foreign
	// Earlier: an incarnation before the store's current one.
	Earlier
	// Current: the store's current incarnation.
	Current
	// Later: an incarnation that the store does not know: it was restored to a
	// moment before that incarnation began.
	Later
)

// OriginOf compares the identity that a record names, in the form of String, with the store's
// current identity. Text in another form is Unnamed.
func (i Identity) OriginOf(text string) Origin {
	named, err := ParseIdentity(text)
	switch {
	case err != nil:
		return Unnamed
	case named.Store != i.Store:
		return Foreign
	case named.Incarnation < i.Incarnation:
		return Earlier
	case named.Incarnation > i.Incarnation:
		return Later
	}
	return Current
}

// IDs returns the event ids at positions; positions without an event are missing.
// It compares records of the topic with the store: one index lookup
// for each position.
func (r *Reader) IDs(ctx context.Context, positions []int64) (map[int64]uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	rows, err := r.pool.Query(ctx, "select position, id from events where position = any($1)", positions)
	if err != nil {
		return nil, fmt.Errorf("read the ids of %d events: %w", len(positions), err)
	}
	ids := make(map[int64]uuid.UUID, len(positions))
	var position int64
	var id [16]byte
	_, err = pgx.ForEachRow(rows, []any{&position, &id}, func() error {
		ids[position] = id
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the ids of %d events: %w", len(positions), err)
	}
	return ids, nil
}

// KeyAt is the partition key of the event at a position.
type KeyAt struct {
	Position int64
	Key      uuid.UUID
}

// KeysDown returns the keys at and below a position, the highest position first,
// at most limit of them.
func (r *Reader) KeysDown(ctx context.Context, from int64, limit int) ([]KeyAt, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	rows, err := r.pool.Query(ctx, "select position, key from events where position <= $1 order by position desc limit $2", from, limit)
	if err != nil {
		return nil, fmt.Errorf("read the keys down from position %d: %w", from, err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k KeyAt, err error) {
		err = row.Scan(&k.Position, (*[16]byte)(&k.Key))
		return k, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the keys down from position %d: %w", from, err)
	}
	return keys, nil
}

// Incarnation is a recorded history of the store.
type Incarnation struct {
	Number int64
	// SharedPosition is the last position that means the same event as in the
	// incarnation before.
	SharedPosition int64
	Marked         bool // the topic has the record of its beginning in every partition
	Recovered      bool // the read models contain this incarnation
}

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Incarnations returns all incarnations of the store, the current one last.
func Incarnations(ctx context.Context, q querier) ([]Incarnation, error) {
	rows, err := q.Query(ctx, `
		select incarnation, shared_position, marked_at is not null, recovered_at is not null
		from store_incarnations order by incarnation`)
	if err != nil {
		return nil, fmt.Errorf("read the store's incarnations: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Incarnation])
	if err != nil {
		return nil, fmt.Errorf("read the store's incarnations: %w", err)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("read the store's incarnations: %w", pgx.ErrNoRows)
	}
	return all, nil
}

// Incarnations returns all incarnations of the store, the current one last.
func (r *Reader) Incarnations(ctx context.Context) ([]Incarnation, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return Incarnations(ctx, r.pool)
}

// Superseded reports whether an incarnation later than the named one has assigned the position
// again. A relay that was deposed by a recovery sent such a record; its predecessor may be an event
// of the lost history.
func Superseded(all []Incarnation, incarnation, position int64) bool {
	return slices.ContainsFunc(all, func(later Incarnation) bool {
		return later.Number > incarnation && position > later.SharedPosition
	})
}
