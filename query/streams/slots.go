package streams

import (
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// MySlots serves GET /v1/slots/my-slots/stream. It begins with the buyer's active slots. A
// client that reconnects with Last-Event-ID also gets what has changed since. An id that is not one
// of this stream's is ignored: a client sends the last id that it received, possibly from an older
// version.
func (p *Publisher) MySlots(c echo.Context) error {
	who, _ := httpapi.IdentityOf(c)
	min, err := httpapi.MinPositions(c)
	if err != nil {
		return err
	}
	since, resumed := parseResumption(c.Request().Header.Get(lastEventID))
	first, err := p.feed.buyerState(c.Request().Context(), who.Sub, min)
	if err != nil {
		return err
	}
	t, entered := p.feed.listen(who.Sub)
	return p.live(c, "slots", who.Expires, func(s *stream) error {
		l := &buyerListener{stream: s}
		if resumed {
			l.last = since.String()
		}
		if err := l.send(first, func(r buyerRow) bool { return r.news(since, resumed, first.at) }); err != nil {
			return err
		}
		first = nil // it may be large, and the stream lives longer
		return l.follow(t, entered)
	}, func() { p.feed.unlisten(who.Sub) })
}

// buyerListener is one open stream of a buyer.
type buyerListener struct {
	*stream
	known       map[subject]uint64 // the content that was sent, or that the buyer had already
	last        string             // the id of the previous event
	fingerprint uint64             // of the read models at that time
}

// follow sends what each newer state has that the previous ones had not. States whose read began
// before the subscriber entered may be older than its initial state; they are ignored.
func (l *buyerListener) follow(t *buyerTopic, entered time.Time) error {
	for {
		s := t.now.Load()
		if s.began.After(entered) {
			differs := func(r buyerRow) bool { return l.known[r.subject] != r.content }
			if err := l.send(s, differs); err != nil {
				return err
			}
		}
		if err := l.await(s.changed); err != nil {
			return err
		}
	}
}

// send writes those rows of a state for which wanted returns true. Only the last of them has the
// state's own id: if the connection is lost between two of them, the second is sent again.
func (l *buyerListener) send(s *buyerState, wanted func(buyerRow) bool) error {
	var rows []buyerRow
	for _, r := range s.rows {
		if wanted(r) {
			rows = append(rows, r)
		}
	}
	token := s.at.String()
	if len(rows) == 0 && l.last != "" && l.fingerprint != s.at.fingerprint {
		// Nothing changed, but a client that reconnected with the previous id would get everything.
		if err := l.write(httpapi.NewPiece([]byte("id: " + token + "\n\n"))); err != nil {
			return err
		}
	}
	for i, r := range rows {
		id := token
		if i < len(rows)-1 {
			id = l.last
		}
		event, err := encodeEvent(r.name, id, r.data)
		if err != nil {
			return err
		}
		if err := l.write(event); err != nil {
			return err
		}
	}
	l.last, l.fingerprint = token, s.at.fingerprint
	l.known = make(map[subject]uint64, len(s.rows))
	for _, r := range s.rows {
		l.known[r.subject] = r.content
	}
	return nil
}

// news reports whether a row is sent at the beginning of a resumed stream: if it changed after
// since. If the read models have changed in another way, all rows are sent, because rows may have
// changed at older positions.
func (r buyerRow) news(since resumption, resumed bool, now resumption) bool {
	if r.name == "slot" && r.active {
		return true
	}
	return resumed && (since.fingerprint != now.fingerprint || len(since.positions) != len(now.positions) || !since.positions.passed(r.product, r.position))
}

// buyerTopic is a buyer with one or more open streams.
type buyerTopic struct {
	now       atomic.Pointer[buyerState]
	listeners int       // guarded by feed.mu, like the fields below
	entered   time.Time // when the last of them was opened
	read      time.Time // when the read of the newest state began
}

func (t *buyerTopic) publish(s *buyerState) {
	s.changed = make(chan struct{})
	if old := t.now.Swap(s); old != nil {
		close(old.changed)
	}
}

// listen starts to follow a buyer, and returns the time from which it follows. Every change that is
// committed later, or was committed before without being in the subscriber's initial state, will be
// in a state whose read starts after that time.
func (f *feed) listen(buyer uuid.UUID) (*buyerTopic, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.buyers[buyer]
	if t == nil {
		t = &buyerTopic{}
		t.publish(&buyerState{})
		f.buyers[buyer] = t
	}
	t.listeners++
	t.entered = time.Now()
	f.wake()
	return t, t.entered
}

func (f *feed) unlisten(buyer uuid.UUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.buyers[buyer]
	if t.listeners--; t.listeners == 0 {
		delete(f.buyers, buyer)
	}
}
