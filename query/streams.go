package query

import (
	"bytes"
	"context"
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

var heartbeatComment = []byte(":\n\n")

// encodeEvent writes one server-sent event. JSON has no line breaks of its own,
// so the data is one line.
func encodeEvent(name, id string, data any) ([]byte, error) {
	body, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("encode an event %s: %w", name, err)
	}
	b := make([]byte, 0, len(body)+len(name)+len(id)+24)
	b = append(append(b, "event: "...), name...)
	if id != "" {
		b = append(append(b, "\nid: "...), id...)
	}
	return append(append(append(b, "\ndata: "...), body...), "\n\n"...), nil
}

// topic is something whose newest state is followed, by any number of listeners.
// Who is slow skips what is no longer the newest; nobody waits for anybody.
type topic struct{ now atomic.Pointer[state] }

// state is encoded once and written to all. Only the publisher replaces it.
type state struct {
	event   []byte
	last    bool          // nothing follows
	at      time.Time     // when it was published
	changed chan struct{} // closed when it is no longer the newest
}

func (t *topic) publish(event []byte, last bool) {
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
func (t *topic) shows(event []byte) bool {
	s := t.now.Load()
	return s != nil && bytes.Equal(s.event, event)
}

// stream is one listener's connection.
type stream struct {
	out      *httpapi.Stream
	ctx      context.Context // ends with the request, and with its token
	cancel   context.CancelFunc
	silence  *time.Timer
	listener prometheus.Gauge
	dropped  prometheus.Counter
}

// beginEvents begins the answer; the caller ends it. It is over when the token
// that it was opened with expires; the zero time is never.
func (a *API) beginEvents(c echo.Context, name string, until time.Time) (*stream, error) {
	h := c.Response().Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	out, err := httpapi.NewStream(c, typeEvents)
	if err != nil {
		return nil, err
	}
	if err := out.Flush(); err != nil { // a stream may have nothing to say for long
		return nil, err
	}
	s := &stream{out: out, ctx: c.Request().Context(), cancel: func() {}, silence: time.NewTimer(heartbeat),
		listener: a.metrics.listeners.WithLabelValues(name), dropped: a.metrics.dropped}
	if !until.IsZero() {
		s.ctx, s.cancel = context.WithDeadline(s.ctx, until)
	}
	s.listener.Inc()
	return s, nil
}

func (s *stream) end() {
	s.cancel()
	s.silence.Stop()
	s.listener.Dec()
}

// errEnded says that a stream is over because its client left, its token expired
// or the server stops.
var errEnded = errors.New("the stream is over")

// write sends an event at once. A client that takes nothing for as long as the
// server's write timeout is let go; one that has left is no failure of ours.
func (s *stream) write(event []byte) error {
	_, err := s.out.Write(event)
	if err == nil {
		err = s.out.Flush()
	}
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
		case <-s.out.Stopping():
			return errEnded
		case <-s.ctx.Done():
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
	case <-s.out.Stopping():
		return errEnded
	case <-s.ctx.Done():
		return errEnded
	}
}

// follow writes the topic's newest state at once and then whenever it is another,
// with at least pause between two.
func (s *stream) follow(t *topic, pause time.Duration) error {
	for {
		newest := t.now.Load()
		if err := s.write(newest.event); err != nil {
			return over(err)
		}
		if newest.last {
			return nil
		}
		wrote := time.Now()
		if err := s.await(newest.changed); err != nil {
			return over(err)
		}
		if early := pause - time.Since(wrote); early > 0 {
			if err := s.rest(early); err != nil {
				return over(err)
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
