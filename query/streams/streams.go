package streams

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/telemetry"
	"github.com/dopaminestore/dopamine/query/readmodel"
)

// Publisher serves the streams. Create it with New and call Run once.
type Publisher struct {
	metrics *metrics
	feed    *feed
	stats   *statsPublisher
}

// New returns a publisher of what models reads. write is the event store's database, nil if it
// cannot be read.
func New(models *readmodel.Reader, write *pgxpool.Pool, reg *prometheus.Registry, log *slog.Logger) *Publisher {
	m := newMetrics(reg)
	return &Publisher{metrics: m, feed: newFeed(models, m, log), stats: newStatsPublisher(models, write, log)}
}

// Run reads what the subscribers follow until ctx ends.
func (p *Publisher) Run(ctx context.Context) {
	var readers sync.WaitGroup
	readers.Go(func() {
		defer guard.Log("publish products and slots")
		p.feed.run(ctx)
	})
	readers.Go(func() {
		defer guard.Log("publish stats")
		p.stats.run(ctx)
	})
	readers.Wait()
}

const (
	typeEvents = "text/event-stream"
	// heartbeat is the maximum time without output on a stream. A comment then keeps proxies from
	// closing it, and reveals clients that have gone.
	heartbeat = 15 * time.Second
	// lastEventID is the header with which a client resumes a stream.
	lastEventID = "Last-Event-ID"
)

var heartbeatComment = httpapi.NewPiece([]byte(":\n\n"))

// encodeEvent encodes one server-sent event. Encoded JSON contains no line breaks, so the data is
// one line.
func encodeEvent(name, id string, data any) (httpapi.Piece, error) {
	body, err := json.Marshal(data)
	if err != nil {
		return httpapi.Piece{}, fmt.Errorf("encode an event %s: %w", name, err)
	}
	b := make([]byte, 0, len(body)+len(name)+len(id)+24)
	b = append(append(b, "event: "...), name...)
	if id != "" {
		b = append(append(b, "\nid: "...), id...)
	}
	return httpapi.NewPiece(append(append(append(b, "\ndata: "...), body...), "\n\n"...)), nil
}

// broadcast is a value whose newest state any number of subscribers follow. A slow subscriber skips
// states that are no longer the newest; no subscriber waits for another.
type broadcast struct{ now atomic.Pointer[state] }

// state is encoded once and written to all subscribers. Only the publisher replaces it.
type state struct {
	event   httpapi.Piece
	last    bool          // no state follows
	at      time.Time     // when it was published
	changed chan struct{} // closed when it is no longer the newest
}

func (t *broadcast) publish(event httpapi.Piece, last bool) {
	old := t.now.Load()
	if old != nil && old.last {
		return
	}
	t.now.Store(&state{event: event, last: last, at: time.Now(), changed: make(chan struct{})})
	if old != nil {
		close(old.changed)
	}
}

// shows reports whether the newest state is this event.
func (t *broadcast) shows(event httpapi.Piece) bool {
	s := t.now.Load()
	return s != nil && bytes.Equal(s.event.Bytes(), event.Bytes())
}

// stream is the connection of one subscriber.
type stream struct {
	*httpapi.Live
	silence *time.Timer
	dropped prometheus.Counter
}

// live responds with a stream of events, which run writes until it ends, at the latest when the
// token expires; a zero time means no expiry. run outlives the handler. leave is called when it has
// ended or cannot begin.
func (p *Publisher) live(c echo.Context, name string, until time.Time, run func(*stream) error, leave func()) error {
	h := c.Response().Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // keeps nginx from buffering events
	listeners := p.metrics.listeners.WithLabelValues(name)
	err := httpapi.GoLive(c, typeEvents, until, func(l *httpapi.Live) error {
		defer leave()
		listeners.Inc()
		defer listeners.Dec()
		s := &stream{Live: l, silence: time.NewTimer(heartbeat), dropped: p.metrics.dropped}
		defer s.silence.Stop()
		return ignoreEnd(run(s))
	})
	if err != nil {
		leave()
	}
	return err
}

// errEnded means that a stream has ended because its client disconnected, its token expired or the
// server stops.
var errEnded = errors.New("the stream is over")

// write sends an event immediately. A client that accepts no data for the server's write timeout is
// disconnected. A client that has disconnected is not an error.
func (s *stream) write(event httpapi.Piece) error {
	err := s.Write(event)
	if err == nil {
		s.silence.Reset(heartbeat)
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.dropped.Inc()
	}
	return errEnded
}

// await waits for wake and sends heartbeats. It returns errEnded if the stream ends first.
func (s *stream) await(wake <-chan struct{}) error {
	for {
		select {
		case <-wake:
			return nil
		case <-s.silence.C:
			if err := s.write(heartbeatComment); err != nil {
				return err
			}
		case <-s.Stopping():
			return errEnded
		case <-s.Done():
			return errEnded
		}
	}
}

// sleep waits for d, or until the stream ends.
func (s *stream) sleep(d time.Duration) error {
	passed := time.NewTimer(d)
	defer passed.Stop()
	select {
	case <-passed.C:
		return nil
	case <-s.Stopping():
		return errEnded
	case <-s.Done():
		return errEnded
	}
}

// follow writes the broadcast's newest state immediately and then whenever it changes, with at
// least pause between two.
func (s *stream) follow(t *broadcast, pause time.Duration) error {
	for {
		newest := t.now.Load()
		if err := s.write(newest.event); err != nil {
			return err
		}
		if newest.last {
			return nil
		}
		wrote := time.Now()
		if err := s.await(newest.changed); err != nil {
			return err
		}
		if early := pause - time.Since(wrote); early > 0 {
			if err := s.sleep(early); err != nil {
				return err
			}
		}
	}
}

// ignoreEnd returns nil for the regular end of a stream.
func ignoreEnd(err error) error {
	if errors.Is(err, errEnded) {
		return nil
	}
	return err
}

// metrics are the metrics of the streams.
type metrics struct {
	listeners *prometheus.GaugeVec
	dropped   prometheus.Counter
	polls     prometheus.Histogram
}

func newMetrics(reg *prometheus.Registry) *metrics {
	m := telemetry.NewMetrics(reg, "streams")
	return &metrics{
		listeners: m.Gauges("listeners", "Open streams of server-sent events.", "stream"),
		dropped:   m.Counter("dropped_total", "Listeners that were disconnected because they were too slow."),
		polls:     m.Histogram("look_seconds", "Duration of one poll of the read models for all listeners.", telemetry.DurationBuckets),
	}
}
