package replay

import (
	"context"
	"sync"
	"time"

	"github.com/dopaminestore/dopamine/internal/guard"
)

const (
	// shownEvery is how often a replay is shown, writtenEvery how often its row
	// is written.
	shownEvery   = 250 * time.Millisecond
	writtenEvery = time.Second
	// ratePast is over how long the rate is taken.
	ratePast = 5 * time.Second
)

// progress is how far a replay is, for its row and for who looks on.
type progress struct {
	r       *runner
	mu      sync.Mutex
	now     Replay
	samples []sample
	quit    chan struct{}
	ended   sync.WaitGroup
	stopped bool
}

type sample struct {
	at     time.Time
	events int64
}

// report begins to tell of a replay.
func (r *runner) report(first Replay) *progress {
	p := &progress{r: r, now: first, quit: make(chan struct{})}
	p.show()
	p.ended.Go(func() {
		defer guard.Log("report a replay's progress")
		show, write := time.NewTicker(shownEvery), time.NewTicker(writtenEvery)
		defer show.Stop()
		defer write.Stop()
		for {
			select {
			case <-p.quit:
				return
			case <-show.C:
				p.show()
			case <-write.C:
				ctx, cancel := context.WithTimeout(context.Background(), writtenEvery)
				_ = p.write(ctx) // the next one tells more
				cancel()
			}
		}
	})
	return p
}

// enter notes the phase that begins.
func (p *progress) enter(phase string) {
	p.mu.Lock()
	p.now.Phase = phase
	p.mu.Unlock()
	p.show()
}

// passed notes that events were applied, up to a position, and where the head is.
func (p *progress) passed(events int, position, head int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.Events += int64(events)
	p.now.Position = position
	p.now.Target = max(p.now.Target, head)
}

func (p *progress) look() Replay {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.samples = append(p.samples, sample{now, p.now.Events})
	for len(p.samples) > 2 && now.Sub(p.samples[0].at) > ratePast {
		p.samples = p.samples[1:]
	}
	if took := now.Sub(p.samples[0].at).Seconds(); took > 0.1 {
		p.now.Rate = float64(p.now.Events-p.samples[0].events) / took
	}
	p.now.UpdatedAt = now
	return p.now
}

func (p *progress) show() {
	if now := p.look(); p.r.OnProgress != nil {
		p.r.OnProgress(now)
	}
}

func (p *progress) write(ctx context.Context) error {
	now := p.look()
	_, err := p.r.ReadPool.Exec(ctx, `
		UPDATE projection_replays SET phase = $2, events = $3, position = $4, target = $5, rate = $6, updated_at = now()
		WHERE id = $1 AND ended_at IS NULL`, now.ID, now.Phase, now.Events, now.Position, now.Target, now.Rate)
	return err
}

// stop ends the telling; false where it had ended.
func (p *progress) stop() bool {
	if p.stopped {
		return false
	}
	p.stopped = true
	close(p.quit)
	p.ended.Wait()
	return true
}

// end writes how the replay ended.
func (p *progress) end(ctx context.Context, phase string, why *string) error {
	p.mu.Lock()
	p.now.Phase, p.now.Running, p.now.EndedAt = phase, false, time.Now()
	if why != nil {
		p.now.Error = *why
	}
	p.mu.Unlock()
	p.show()
	now := p.look()
	_, err := p.r.ReadPool.Exec(ctx, `
		UPDATE projection_replays SET phase = $2, events = $3, position = $4, target = $5, error = $6, updated_at = now(), ended_at = now()
		WHERE id = $1 AND ended_at IS NULL`, now.ID, phase, now.Events, now.Position, now.Target, why)
	return err
}
