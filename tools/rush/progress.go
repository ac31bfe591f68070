package rush

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// Progress receives the progress of a round. Add is called from many goroutines.
type Progress interface {
	Begin(what string, total int64)
	Add(n int64)
	End()
}

type silent struct{}

func (silent) Begin(string, int64) {}
func (silent) Add(int64)           {}
func (silent) End()                {}

// Bar shows a progress bar on a terminal.
func Bar(w io.Writer) Progress { return &bar{w: w} }

type bar struct {
	w     io.Writer
	done  atomic.Int64
	total int64
	all   *mpb.Progress
	one   *mpb.Bar
	stop  chan struct{}
	ended sync.WaitGroup
}

// redraw is the interval at which progress is shown: it must not slow the crowd down.
const redraw = 100 * time.Millisecond

func (b *bar) Begin(what string, total int64) {
	b.total = total
	b.done.Store(0)
	b.all = mpb.New(mpb.WithOutput(b.w), mpb.WithRefreshRate(redraw))
	b.one = b.all.AddBar(total,
		mpb.PrependDecorators(decor.Name(what+" "), decor.CountersNoUnit("%d / %d")),
		mpb.AppendDecorators(decor.Percentage(), decor.Name(" "), decor.AverageSpeed(0, "%.0f/s"), decor.Name(" ETA "), decor.AverageETA(decor.ET_STYLE_GO)))
	b.stop = make(chan struct{})
	b.ended.Go(func() { every(redraw, b.stop, func() { b.one.SetCurrent(b.done.Load()) }) })
}

func (b *bar) Add(n int64) { b.done.Add(n) }

func (b *bar) End() {
	close(b.stop)
	b.ended.Wait()
	if b.done.Load() < b.total {
		b.one.Abort(false) // interrupted: the bar keeps its state
	}
	b.all.Wait()
}

// Lines prints a plain line each second, for output that is not a terminal.
func Lines(w io.Writer) Progress { return &lines{w: w} }

type lines struct {
	w     io.Writer
	what  string
	done  atomic.Int64
	total int64
	begun time.Time
	stop  chan struct{}
	ended sync.WaitGroup
}

func (l *lines) Begin(what string, total int64) {
	l.what, l.total, l.begun = what, total, time.Now()
	l.done.Store(0)
	l.stop = make(chan struct{})
	l.ended.Go(func() { every(time.Second, l.stop, l.line) })
}

func (l *lines) line() {
	done := l.done.Load()
	rate := float64(done) / max(time.Since(l.begun).Seconds(), 0.001)
	fmt.Fprintf(l.w, "%s: %d of %d (%.0f/s)\n", l.what, done, l.total, rate)
}

func (l *lines) Add(n int64) { l.done.Add(n) }

func (l *lines) End() {
	close(l.stop)
	l.ended.Wait()
}

// every calls f at each interval and once at the end.
func every(d time.Duration, stop <-chan struct{}, f func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-stop:
			f()
			return
		case <-t.C:
			f()
		}
	}
}
