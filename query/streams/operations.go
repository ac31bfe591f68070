package streams

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/query/readmodel"
)

const (
	// expiringWindow is how long before its deadline a slot is about to expire.
	expiringWindow = 5 * time.Minute
	// expiringShown is how many of them the dashboard lists. The count includes up to
	// expiringCounted.
	expiringShown, expiringCounted = 20, 100_000
	// replayShown is how long an ended replay is still shown.
	replayShown = 15 * time.Minute
)

// operations is the data of `event: operations`: what the dashboard shows in addition to the stats.
type operations struct {
	At          apimodel.Time      `json:"at"`
	Expiring    expiring           `json:"expiring"`
	Projections []projectionStatus `json:"projections"`
	Replays     []replayProgress   `json:"replays"`
}

// expiring is the slots that end within expiringWindow unless they are paid.
type expiring struct {
	Count int64           `json:"count"`
	Slots []apimodel.Slot `json:"slots"` // the next ones to expire
}

type projectionStatus struct {
	Name       string `json:"name"`
	Generation int    `json:"generation"` // the live generation
	Parked     int64  `json:"parked"`     // number of parked events
}

// replayProgress is the progress of a replay.
type replayProgress struct {
	Projection string         `json:"projection"`
	Generation int            `json:"generation"` // the generation that it builds
	Phase      string         `json:"phase"`
	Running    bool           `json:"running"`
	Events     int64          `json:"events"`
	Position   int64          `json:"position"`
	Target     int64          `json:"target"`
	Rate       float64        `json:"eventsPerSecond"`
	ETA        *float64       `json:"etaSeconds"`
	StartedAt  apimodel.Time  `json:"startedAt"`
	EndedAt    *apimodel.Time `json:"endedAt"`
	Error      string         `json:"error"`
}

func (e *expiring) queue(b *pgx.Batch, g readmodel.Generations) {
	*e = expiring{Slots: []apimodel.Slot{}}
	b.Queue(`SELECT count(*) FROM (SELECT FROM `+g.Table(readmodel.PurchaseSlots)+`
		WHERE status = 'ACTIVE' AND expiration_timestamp <= now() + $1::interval LIMIT $2) s`, expiringWindow, expiringCounted).
		QueryRow(func(row pgx.Row) error { return row.Scan(&e.Count) })
	b.Queue(`SELECT `+readmodel.SlotColumns+` FROM `+readmodel.SlotsFrom(g)+`
		WHERE s.status = 'ACTIVE' AND s.expiration_timestamp <= now() + $1::interval
		ORDER BY s.expiration_timestamp LIMIT $2`, expiringWindow, expiringShown).Query(func(rows pgx.Rows) error {
		return readmodel.EachRow(rows, func() error {
			s, err := readmodel.ScanSlot(rows)
			e.Slots = append(e.Slots, s)
			return err
		})
	})
}

// fill adds the state of the projections and of replays.
func (o *operations) fill(ctx context.Context, pool *pgxpool.Pool, at apimodel.Time, all []projections.Status) error {
	o.At = at
	for _, p := range all {
		s := projectionStatus{Name: p.Projection, Parked: p.Parked}
		for _, g := range p.Generations {
			if g.State == "live" {
				s.Generation = g.Number
			}
		}
		o.Projections = append(o.Projections, s)
	}
	replays, err := replay.Latest(ctx, pool)
	if err != nil {
		return readmodel.DatabaseError("read the replays", err)
	}
	for _, r := range replays {
		if !r.Running && time.Time(at).Sub(r.UpdatedAt) > replayShown {
			continue
		}
		p := replayProgress{Projection: r.Projection, Generation: r.Generation, Phase: r.Phase, Running: r.Running, Events: r.Events,
			Position: r.Position, Target: r.Target, Rate: tenths(r.Rate), StartedAt: apimodel.Time(r.StartedAt), Error: r.Error}
		if eta := r.ETA().Seconds(); eta > 0 {
			eta = tenths(eta)
			p.ETA = &eta
		}
		if !r.EndedAt.IsZero() {
			p.EndedAt = apimodel.At(&r.EndedAt)
		}
		o.Replays = append(o.Replays, p)
	}
	return nil
}
