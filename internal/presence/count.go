package presence

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/internal/sleep"
)

// Live is the number of live processes in the list.
type Live struct {
	Workers int
	Others  int // command APIs
	Silent  int // in the list, but without a beat: killed, paused, or cut off from Postgres
}

// Count observes the list from outside for as long as it takes until each process has beaten, at
// most for DeadAfter.
func Count(ctx context.Context, pool *pgxpool.Pool) (Live, error) {
	first, err := readBeats(ctx, pool)
	if err != nil {
		return Live{}, err
	}
	began := time.Now()
	for {
		now, err := readBeats(ctx, pool)
		if err != nil {
			return Live{}, err
		}
		var live Live
		for id, b := range now {
			before, known := first[id]
			switch {
			case known && before.n == b.n:
				live.Silent++
			case b.works:
				live.Workers++
			default:
				live.Others++
			}
		}
		if live.Silent == 0 || time.Since(began) > DeadAfter {
			return live, nil
		}
		if err := sleep.For(ctx, beatInterval/2); err != nil {
			return Live{}, err
		}
	}
}

type beats struct {
	n     int64
	works bool
}

func readBeats(ctx context.Context, pool *pgxpool.Pool) (map[int64]beats, error) {
	// The list has a row for each process: no index is needed.
	rows, err := pool.Query(ctx, `select id, beats, works from processes`)
	if err != nil {
		return nil, fmt.Errorf("read the list of processes: %w", err)
	}
	all := map[int64]beats{}
	var id int64
	var b beats
	if _, err := pgx.ForEachRow(rows, []any{&id, &b.n, &b.works}, func() error {
		all[id] = b
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read the list of processes: %w", err)
	}
	return all, nil
}
