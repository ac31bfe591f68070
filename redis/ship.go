package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/internal/failpoint"
)

// maxLogPiece is how many lines are read at a time.
const maxLogPiece = 5000

// LogPiece is the beginning of a gate's decision log, as it was read at one moment,
// with the gate's state at that moment.
type LogPiece struct {
	Product uuid.UUID
	// Exists is false if there is no gate, or if its log was lost; the other fields are zero then.
	Exists bool
	// Alive: the gate belongs to the Redis process that answered, is not closed and
	// has lost nothing.
	Alive             bool
	FirstEpoch, Epoch int64 // the gate's first epoch and its present one
	// Lines are the closed lines, and the open run if they end with it.
	Lines []NumberedLine
	// Err is why the lines could not be parsed: another version of this program wrote
	// them. Everything else is valid.
	Err     error
	More    bool          // there are more closed lines after these
	Pending int           // pending grants
	Last    int64         // the highest number assigned so far
	Now     time.Duration // the gate's clock
	Leased  bool          // it may decide now, by its own clock

	before  *NumberedLine // see Shipment
	rebuild uuid.UUID     // that made the gate, zero if not known

	instance, on string // of the gate; of the process that answered
	first, last  int64  // indexes in the list
	closed       int    // how many of the lines are closed
	run          string // the open run, "" for none
}

// Unchanged reports whether the same gate has decided nothing since an earlier
// read.
func (l *LogPiece) Unchanged(earlier *LogPiece) bool {
	return l.SameGate(earlier) && l.last == earlier.last && l.run == earlier.run && l.closed == 0
}

// SameGate reports whether both were read from the same life of the same gate.
func (l *LogPiece) SameGate(other *LogPiece) bool {
	return l.Exists && other != nil && other.Exists && l.FirstEpoch == other.FirstEpoch && l.rebuild == other.rebuild &&
		l.instance == other.instance && l.on == other.on
}

// LeasedBy reports whether a lease of that epoch, taken for that Redis instance, is
// a lease of the gate that was read.
func (l *LogPiece) LeasedBy(epoch int64, instance string) bool {
	return l.Exists && l.Epoch == epoch && l.instance == instance && l.on == instance
}

// Shipment returns the part of a log piece that is to be stored. If the gate is alive,
// everything that its epoch decided before the read is stored with it, and all of
// the epochs that the same gate had before.
func (l *LogPiece) Shipment() Shipment {
	s := Shipment{
		Product: l.Product, Rebuild: l.rebuild, FirstEpoch: l.FirstEpoch, Epoch: l.Epoch, Lines: l.Lines, Before: l.before, Unsettled: l.Pending > 0,
	}
	// A gate on another process is a replica's or an older one: it may lack some of
	// the decisions.
	s.Live = l.Alive && !l.More && l.Err == nil
	return s
}

// ReadLog reads the product's decision log without changing it.
func (g *Gate) ReadLog(ctx context.Context, product uuid.UUID) (*LogPiece, error) {
	l, err := g.readLog(ctx, product, g.keys(product))
	return l, unavailable("read the decision log", err)
}

// TrimLog removes the closed lines of a piece, which must have been stored. Any
// number of processes may do so at the same time.
func (g *Gate) TrimLog(ctx context.Context, l *LogPiece) error {
	if l.closed == 0 || l.Err != nil {
		return nil
	}
	failpoint.Hit(failpoint.TrimBefore)
	_, _, err := g.call(ctx, trimScript, g.keys(l.Product), l.FirstEpoch, l.first+int64(l.closed)-1)
	failpoint.Hit(failpoint.TrimAfter)
	return unavailable("trim the decision log", err)
}

// Ship stores the product's decision log in Postgres, the open run included, and
// trims it. Any number of processes may do so at the same time.
func (g *Gate) Ship(ctx context.Context, product uuid.UUID) error {
	return unavailable("ship the decision log", g.ship(ctx, product, false, ""))
}

// salvage ships the log of a closed gate, if there is one here. lessee is the
// process for which the last lease was taken: if it is this gate's and it
// responds, its log holds every decision.
func (g *Gate) salvage(ctx context.Context, p *product, lessee string) error {
	err := g.ship(ctx, p.id, true, lessee)
	if errors.Is(err, errReply) {
		return nil // not written by this program: lost, but it must not block the rebuild
	}
	return err
}

// ship stores and trims until no closed line is left.
func (g *Gate) ship(ctx context.Context, product uuid.UUID, closed bool, lessee string) error {
	for {
		// Read the clock before the log: every decision shipped up to then is in the log.
		at, err := g.store.Now(ctx)
		if err != nil {
			return err
		}
		log, err := g.readLog(ctx, product, g.keys(product))
		if err != nil || !log.Exists {
			return err
		}
		if log.Err != nil {
			return log.Err
		}
		s := log.Shipment()
		s.At = at
		if closed {
			s.Live = false
			s.Closed = log.instance == log.on && lessee == log.instance && !log.More
			s.Unsettled = false // they are void with the epoch
		}
		if err := g.store.Ship(ctx, []Shipment{s}); err != nil {
			return err
		}
		if err := g.TrimLog(ctx, log); err != nil {
			return err
		}
		if !log.More {
			return nil
		}
	}
}

func (g *Gate) readLog(ctx context.Context, product uuid.UUID, keys []string) (*LogPiece, error) {
	reply, on, err := g.call(ctx, linesScript, keys, maxLogPiece)
	if err != nil {
		return nil, err
	}
	log := &LogPiece{Product: product, on: on.instance}
	if reply == nil {
		return log, nil
	}
	r, err := parseReply(reply, 14)
	if err != nil {
		return nil, err
	}
	log.Exists = true
	log.rebuild = r.id(13)
	log.FirstEpoch, log.instance, log.first, log.last, log.Epoch, log.run = r.number(0), r.text(1), r.number(2), r.number(3), r.number(4), r.text(5)
	sound, now, lease, counter := r.number(7) == 1, r.number(8), r.number(9), r.number(11)
	log.Alive = sound && log.instance == log.on
	log.Now, log.Leased = time.Duration(now)*time.Millisecond, now < lease
	log.Pending, log.Last = int(r.number(10)), log.Epoch*fairness.NumbersPerEpoch+counter
	lines, ok := r.items[6].([]any)
	if !ok || r.err != nil {
		return nil, fmt.Errorf("%w: the log's lines", errors.Join(errReply, r.err))
	}
	texts := make([]string, 0, len(lines)+1)
	for _, line := range lines {
		text, ok := line.(string)
		if !ok {
			return nil, errReply
		}
		texts = append(texts, text)
	}
	log.closed = len(texts)
	log.More = log.closed == maxLogPiece
	if log.run != "" && !log.More {
		texts = append(texts, log.run)
	}
	log.Lines, log.Err = parseLines(texts)
	if trimmed := r.text(12); trimmed != "" && log.Err == nil {
		before, err := parseLine(trimmed)
		log.before, log.Err = &before, err
	}
	return log, nil
}

func parseLines(texts []string) ([]NumberedLine, error) {
	parsed := make([]NumberedLine, 0, len(texts))
	for _, text := range texts {
		line, err := parseLine(text)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, line)
	}
	return parsed, nil
}

// parseLine parses "epoch number kind …" as gate.lua writes it.
func parseLine(text string) (NumberedLine, error) {
	fields := strings.Fields(text)
	want := map[string]int{"o": 4, "g": 5, "r": 5, "x": 9}
	if len(fields) < 3 || len(fields) != want[fields[2]] {
		return NumberedLine{}, fmt.Errorf("%w: line %q", errReply, text)
	}
	var wrong error
	n := func(i int) int64 {
		number, err := parseInt(fields[i])
		wrong = errors.Join(wrong, err)
		return number
	}
	l := NumberedLine{Number: n(1), Line: fairness.Line{Epoch: n(0)}}
	sequence := func(i int) int64 { return l.Epoch*fairness.NumbersPerEpoch + n(i) }
	switch fields[2] {
	case "o":
		l.Type, l.Units = fairness.Opened, n(3)
	case "g":
		l.Type, l.Sequence, l.Unit = fairness.Granted, sequence(3), int(n(4))
	case "r":
		l.Type, l.Unit, l.Reason = fairness.Returned, int(n(3)), fairness.Reason(fields[4])
	case "x":
		l.Type, l.From, l.To = fairness.Refused, sequence(3), sequence(4)
		l.Refused = fairness.Counts{SoldOut: n(5), Duplicate: n(6), NotStarted: n(7), Closed: n(8)}
	}
	if wrong != nil {
		return NumberedLine{}, fmt.Errorf("%w: line %q: %w", errReply, text, wrong)
	}
	return l, nil
}
