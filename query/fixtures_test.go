package query_test

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// day is a moment well in the past.
var day = time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)

type product struct {
	id       uuid.UUID
	name     string
	price    string
	currency string
	stock    int
	total    int
	begin    time.Time
	end      *time.Time
	paused   bool
}

// product inserts a product into generation g, on sale, with defaults for what is not set.
func (w *world) product(g int, p product) uuid.UUID {
	w.t.Helper()
	if p.id == uuid.Nil {
		p.id = uuid.New()
	}
	if p.name == "" {
		p.name = "Sneaker"
	}
	if p.price == "" {
		p.price, p.currency = "259000", "KRW"
	}
	if p.total == 0 {
		p.total = 100
	}
	if p.begin.IsZero() {
		p.begin = day
	}
	w.exec(fmt.Sprintf(`INSERT INTO products_g%d VALUES ($1, $2, 'made of air', $3, $4, $5, $6, $6, $7, $8, $9, $10, $10, 1)`, g),
		p.id, p.name, p.price, p.currency, p.stock, p.total, p.begin, p.end, p.paused, day.Add(-time.Hour))
	return p.id
}

type slot struct {
	id      uuid.UUID
	product uuid.UUID
	user    uuid.UUID
	unit    int
	at      time.Time // time of acquisition
	life    time.Duration
	ended   *time.Time
	status  string
	reclaim *string
}

func (w *world) slot(g int, s slot) uuid.UUID {
	w.t.Helper()
	if s.id == uuid.Nil {
		s.id = uuid.New()
	}
	if s.unit == 0 {
		s.unit = 1
	}
	if s.status == "" {
		s.status = "ACTIVE"
	}
	if s.at.IsZero() {
		s.at = day
	}
	if s.life == 0 {
		s.life = 30 * time.Minute
	}
	w.exec(fmt.Sprintf(`INSERT INTO purchase_slots_g%d VALUES ($1, $2, $3, $4, 7, $5, $6, $7, $5, NULL, $8, $9, 1)`, g),
		s.id, s.product, s.user, s.unit, s.at, s.at.Add(s.life), s.status, s.ended, s.reclaim)
	return s.id
}

func (w *world) name(g int, product uuid.UUID, name string) {
	w.t.Helper()
	w.exec(fmt.Sprintf(`INSERT INTO purchase_slots_names_g%d VALUES ($1, $2, 1)`, g), product, name)
}

type payment struct {
	id      uuid.UUID
	product uuid.UUID
	user    uuid.UUID
	status  string
	amount  string
	reason  *string
	created time.Time
}

func (w *world) payment(g int, p payment) uuid.UUID {
	w.t.Helper()
	if p.id == uuid.Nil {
		p.id = uuid.New()
	}
	if p.status == "" {
		p.status = "PENDING"
	}
	if p.amount == "" {
		p.amount = "12.50"
	}
	if p.created.IsZero() {
		p.created = day
	}
	var confirmed *time.Time
	if p.status == "SUCCESS" {
		confirmed = &p.created
	}
	w.exec(fmt.Sprintf(`INSERT INTO purchases_g%d VALUES ($1, $2, $3, $4, NULL, $5, $6, 'USD', 'CARD', $7, $8, NULL, $9, $9, 1)`, g),
		p.id, uuid.New(), p.product, p.user, p.status, p.amount, confirmed, p.reason, p.created)
	return p.id
}

type entry struct {
	id       uuid.UUID
	kind     string
	slot     uuid.UUID
	product  uuid.UUID
	user     uuid.UUID
	at       time.Time
	position int64
	metadata string
}

func (w *world) audit(g int, e entry) uuid.UUID {
	w.t.Helper()
	if e.id == uuid.Nil {
		e.id = uuid.New()
	}
	if e.kind == "" {
		e.kind = "SlotAcquired"
	}
	if e.metadata == "" {
		e.metadata = `{"unit": 1, "arrivalSequence": 1}`
	}
	w.exec(fmt.Sprintf(`INSERT INTO slot_audit_log_g%d VALUES ($1, $2, $3, $4, $5, NULL, 'ACTIVE', '0af7651916cd43dd8448eb211c80319c', 'system', $6, $7, $8)`, g),
		e.id, e.kind, e.slot, e.product, e.user, e.at, e.position, e.metadata)
	return e.id
}

// swap creates a new generation of a projection, calls fill, and makes it live as a replay does.
func (w *world) swap(projection string, generation int, fill string) {
	w.t.Helper()
	w.exec(`INSERT INTO projection_generations (projection, generation, state) VALUES ($1, $2, 'building')`, projection, generation)
	w.exec(`SELECT projection_create_generation($1, $2)`, projection, generation)
	w.exec(fill)
	require.NoError(w.t, pgx.BeginFunc(context.Background(), w.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(context.Background(), `UPDATE projection_generations SET state = 'old' WHERE projection = $1 AND state = 'live'`, projection); err != nil {
			return err
		}
		_, err := tx.Exec(context.Background(), `UPDATE projection_generations SET state = 'live' WHERE projection = $1 AND generation = $2`, projection, generation)
		return err
	}))
}
