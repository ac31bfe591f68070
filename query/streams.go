package query

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

const (
	typeEvents = "text/event-stream"
	// heartbeat is how long a stream is silent at most: a comment then keeps
	// proxies from closing it, and finds clients that have gone.
	heartbeat = 15 * time.Second
	// lastEventID is the header with which a client that lost a stream goes on.
	lastEventID = "Last-Event-ID"
)

var heartbeatComment = httpapi.NewPiece([]byte(":\n\n"))

// encodeEvent writes one server-sent event. JSON has no line breaks of its own,
// so the data is one line.
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

// topic is something whose newest state is followed, by any number of listeners.
// Who is slow skips what is no longer the newest; nobody waits for anybody.
type topic struct{ now atomic.Pointer[state] }

// state is encoded once and written to all. Only the publisher replaces it.
type state struct {
	event   httpapi.Piece
	last    bool          // nothing follows
	at      time.Time     // when it was published
	changed chan struct{} // closed when it is no longer the newest
}

func (t *topic) publish(event httpapi.Piece, last bool) {
	old := t.now.Load()
	if old != nil && old.last {
		return
	}
	t.now.Store(&state{event: event, last: last, at: time.Now(), changed: make(chan struct{})})
	if old != nil {
		close(old.changed)
	}
}

// shows says whether the newest state is this very event.
func (t *topic) shows(event httpapi.Piece) bool {
	s := t.now.Load()
	return s != nil && bytes.Equal(s.event.Bytes(), event.Bytes())
}

// stream is one listener's connection.
type stream struct {
	*httpapi.Live
	silence *time.Timer
	dropped prometheus.Counter
}

// live answers with a stream of events, which run writes until it is over, by the
// expiry of the token that it was opened with at the latest; the zero time is
// never. run outlives the handler; leave is called when it has ended, or cannot
// begin.
func (a *API) live(c echo.Context, name string, until time.Time, run func(*stream) error, leave func()) error {
	h := c.Response().Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	listeners := a.metrics.listeners.WithLabelValues(name)
	err := httpapi.GoLive(c, typeEvents, until, func(l *httpapi.Live) error {
		defer leave()
		listeners.Inc()
		defer listeners.Dec()
		s := &stream{Live: l, silence: time.NewTimer(heartbeat), dropped: a.metrics.dropped}
		defer s.silence.Stop()
		return over(run(s))
	})
	if err != nil {
		leave()
	}
	return err
}

// errEnded says that a stream is over because its client left, its token expired
// or the server stops.
var errEnded = errors.New("the stream is over")

// write sends an event at once. A client that takes nothing for as long as the
// server's write timeout is let go; one that has left is no failure of ours.
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

// await waits for wake, sending heartbeats; errEnded where it is over first.
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

// rest lets d pass.
func (s *stream) rest(d time.Duration) error {
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

// follow writes the topic's newest state at once and then whenever it is another,
// with at least pause between two.
func (s *stream) follow(t *topic, pause time.Duration) error {
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
			if err := s.rest(early); err != nil {
				return err
			}
		}
	}
}

// over makes the end of a stream a proper one where nothing went wrong.
func over(err error) error {
	if errors.Is(err, errEnded) {
		return nil
	}
	return err
}

// streamMetrics tell how the streams do.
type streamMetrics struct {
	listeners *prometheus.GaugeVec
	dropped   prometheus.Counter
	looks     prometheus.Histogram
}

func newStreamMetrics(reg *prometheus.Registry) *streamMetrics {
	m := &streamMetrics{
		listeners: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: telemetry.Namespace, Subsystem: "streams",
			Name: "listeners", Help: "Open streams of server-sent events."}, []string{"stream"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: "streams",
			Name: "dropped_total", Help: "Listeners that were too slow and were let go."}),
		looks: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: telemetry.Namespace, Subsystem: "streams",
			Name: "look_seconds", Help: "How long one look at the read models for all listeners took.", Buckets: telemetry.DurationBuckets}),
	}
	reg.MustRegister(m.listeners, m.dropped, m.looks)
	return m
}
