package query

import (
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// slotStream is GET /v1/slots/my-slots/stream. It begins with the buyer's active
// slots; who comes back with Last-Event-ID is told besides what has changed since.
// What bears no id of ours there means nothing, as if there were none: a client
// hands back whatever it was given last, by an older program perhaps.
func (a *API) slotStream(c echo.Context) error {
	who, _ := httpapi.IdentityOf(c)
	min, err := httpapi.MinPositions(c)
	if err != nil {
		return err
	}
	since, resumed := parseResumption(c.Request().Header.Get(lastEventID))
	first, err := a.models.buyerState(c.Request().Context(), who.Sub, min)
	if err != nil {
		return err
	}
	t, entered := a.feed.listen(who.Sub)
	return a.live(c, "slots", who.Expires, func(s *stream) error {
		l := &buyerListener{stream: s}
		if resumed {
			l.last = since.String()
		}
		if err := l.tell(first, func(r buyerRow) bool { return r.news(since, resumed, first.at) }); err != nil {
			return err
		}
		first = nil // it may be long, and the stream is longer
		return l.follow(t, entered)
	}, func() { a.feed.unlisten(who.Sub) })
}

// buyerListener is one open stream of a buyer.
type buyerListener struct {
	*stream
	known   map[subject]uint64 // what the buyer has been told, or knew
	last    string             // the id of the event before, or of one that could have been
	account uint64             // of the read models, then
}

// follow tells what each newer state has that the ones before had not. States
// whose reading began before the listener entered may be older than what it began
// with.
func (l *buyerListener) follow(t *buyerTopic, entered time.Time) error {
	for {
		s := t.now.Load()
		if s.began.After(entered) {
			differs := func(r buyerRow) bool { return l.known[r.subject] != r.content }
			if err := l.tell(s, differs); err != nil {
				return err
			}
		}
		if err := l.await(s.changed); err != nil {
			return err
		}
	}
}

// tell writes the rows of a state that are to be told. Only the last of them bears
// the state's own id: who loses the stream between two is told the second again.
func (l *buyerListener) tell(s *buyerState, toTell func(buyerRow) bool) error {
	var rows []buyerRow
	for _, r := range s.rows {
		if toTell(r) {
			rows = append(rows, r)
		}
	}
	token := s.at.String()
	if len(rows) == 0 && l.last != "" && l.account != s.at.account {
		// Nothing was changed, but who came back with the last id would be told all.
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
	l.last, l.account = token, s.at.account
	l.known = make(map[subject]uint64, len(s.rows))
	for _, r := range s.rows {
		l.known[r.subject] = r.content
	}
	return nil
}

// news says whether a row is told at the beginning of a stream that goes on from
// since, where it does: what changed behind it, and all there is where the read
// models stand otherwise now, for then rows may have changed at older places.
func (r buyerRow) news(since resumption, resumed bool, now resumption) bool {
	if r.name == "slot" && r.active {
		return true
	}
	return resumed && (since.account != now.account || len(since.places) != len(now.places) || !since.places.passed(r.product, r.place))
}

// buyerTopic is a buyer who is listened to, by one stream or several.
type buyerTopic struct {
	now       atomic.Pointer[buyerState]
	listeners int       // guarded by feed.mu, as the rest
	entered   time.Time // when the last of them came
	looked    time.Time // when the reading of the newest state began
}

func (t *buyerTopic) publish(s *buyerState) {
	s.changed = make(chan struct{})
	if old := t.now.Swap(s); old != nil {
		close(old.changed)
	}
}

// listen begins to follow a buyer, and says from when on: whatever is committed
// later, or was before without having been in what the listener read, will be in
// a state that was read after that moment, and there will be one.
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
	f.awake()
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
