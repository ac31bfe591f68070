package replay

import (
	"context"
	"sync"
	"time"

	"github.com/dopaminestore/dopamine/internal/guard"
)

const (
	// reportInterval is the interval at which OnProgress is called, recordInterval the one at which
	// the replay's row is written.
	reportInterval = 250 * time.Millisecond
	recordInterval = time.Second
	// rateWindow is the time over which the rate is computed.
	rateWindow = 5 * time.Second
)

// progress is the progress of a replay, for its row and for OnProgress.
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

// report starts to report the progress of a replay.
func (r *runner) report(first Replay) *progress {
	p := &progress{r: r, now: first, quit: make(chan struct{})}
	p.show()
	p.ended.Go(func() {
		defer guard.Log("report a replay's progress")
		show, write := time.NewTicker(reportInterval), time.NewTicker(recordInterval)
		defer show.Stop()
		defer write.Stop()
		for {
			select {
			case <-p.quit:
				return
			case <-show.C:
				p.show()
			case <-write.C:
				ctx, cancel := context.WithTimeout(context.Background(), recordInterval)
				_ = p.write(ctx) // the next write has newer values
				cancel()
			}
		}
	})
	return p
}

// enter records the beginning of a phase.
func (p *progress) enter(phase string) {
	p.mu.Lock()
	p.now.Phase = phase
	p.mu.Unlock()
	p.show()
}

// passed records that events up to a position were applied, and the position of the head.
func (p *progress) passed(events int, position, head int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.Events += int64(events)
	p.now.Position = position
	p.now.Target = max(p.now.Target, head)
}

func (p *progress) state() Replay {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.samples = append(p.samples, sample{now, p.now.Events})
	for len(p.samples) > 2 && now.Sub(p.samples[0].at) > rateWindow {
		p.samples = p.samples[1:]
	}
	if took := now.Sub(p.samples[0].at).Seconds(); took > 0.1 {
		p.now.Rate = float64(p.now.Events-p.samples[0].events) / took
	}
	p.now.UpdatedAt = now
	return p.now
}

func (p *progress) show() {
	if now := p.state(); p.r.OnProgress != nil {
		p.r.OnProgress(now)
	}
}

func (p *progress) write(ctx context.Context) error {
	now := p.state()
	_, err := p.r.ReadPool.Exec(ctx, `
		UPDATE projection_replays SET phase = $2, events = $3, position = $4, target = $5, rate = $6, updated_at = now()
		WHERE id = $1 AND ended_at IS NULL`, now.ID, now.Phase, now.Events, now.Position, now.Target, now.Rate)
	return err
}

// stop ends the reporting. It returns false if it had ended already.
func (p *progress) stop() bool {
	if p.stopped {
		return false
	}
	p.stopped = true
	close(p.quit)
	p.ended.Wait()
	return true
}

// end records how the replay ended.
func (p *progress) end(ctx context.Context, phase string, why *string) error {
	p.mu.Lock()
	p.now.Phase, p.now.Running, p.now.EndedAt = phase, false, time.Now()
	if why != nil {
		p.now.Error = *why
	}
	p.mu.Unlock()
	p.show()
	now := p.state()
	_, err := p.r.ReadPool.Exec(ctx, `
		UPDATE projection_replays SET phase = $2, events = $3, position = $4, target = $5, error = $6, updated_at = now(), ended_at = now()
		WHERE id = $1 AND ended_at IS NULL`, now.ID, phase, now.Events, now.Position, now.Target, why)
	return err
}
