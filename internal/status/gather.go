package status

import (
	"context"
	"sync"
	"time"

	"github.com/dopaminestore/dopamine/internal/guard"
)

// Part is one part of the report. Read fills in its fields, which no other part uses.
type Part struct {
	Name string
	Read func(context.Context, *Report) error
}

// Gather reads all parts at once, each within the time, and puts those that
// fail into Unreachable, in their order.
func Gather(ctx context.Context, within time.Duration, parts []Part) Report {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	r := Report{
		At: time.Now().UTC().Truncate(time.Millisecond), Projections: []Projection{}, Replays: []Replay{}, Parked: []Parked{},
		Gates: []Gate{}, Money: []Money{}, Unreachable: []Unreachable{},
	}
	errs := make([]error, len(parts))
	var all sync.WaitGroup
	for i, p := range parts {
		all.Go(func() {
			defer guard.Log("gather status")
			errs[i] = p.Read(ctx, &r)
		})
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			r.Unreachable = append(r.Unreachable, Unreachable{Part: parts[i].Name, Error: err.Error()})
		}
	}
	return r
}
