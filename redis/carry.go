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

const (
	// carryMost is how many lines are carried at a time.
	carryMost = 5000
	// markFor is for how long after the last change the carrying of an idle log
	// is still noted in Postgres: by then no lease is younger than the note.
	markFor = 2 * LeaseTime
)

// mark is how a log was when it was last carried.
type mark struct {
	born  string
	last  int64
	run   string
	since time.Time // of the last change
}

// Carry carries the product's decision log to Postgres, the open run included,
// and trims it. Any number of processes may do so at the same time.
func (g *Gate) Carry(ctx context.Context, product uuid.UUID) error {
	p := g.product(product)
	log, err := g.readLog(ctx, p)
	if err != nil || log == nil {
		return unavailable("read the decision log", err)
	}
	if p.idle(log) {
		return nil
	}
	// Once more, behind a look at Postgres' clock: what is noted as carried up to
	// then must have been read after it.
	at, err := g.store.Now(ctx)
	if err != nil {
		return unavailable("carry the decision log", err)
	}
	return unavailable("carry the decision log", g.carry(ctx, p, at, ""))
}

// idle says that there is nothing new and that this has been noted.
func (p *product) idle(log *logPiece) bool {
	p.carryMu.Lock()
	defer p.carryMu.Unlock()
	now := mark{born: log.born, last: log.last, run: log.run, since: p.carried.since}
	if now == p.carried && len(log.lines) == 0 {
		return time.Since(now.since) > markFor
	}
	now.since = time.Now()
	p.carried = now
	return false
}

// salvage carries the log of a closed gate, if there is one here. lessee is the
// process for which the last lease was taken: if it is this gate's and it
// answers, nothing was decided that is not in the log.
func (g *Gate) salvage(ctx context.Context, p *product, lessee string) error {
	err := g.carry(ctx, p, time.Time{}, lessee)
	if errors.Is(err, errAnswer) {
		return nil // written by something else: lost, but it must not keep the gate dead
	}
	return err
}

// carry carries and trims until nothing is left. With a time it is the log of a
// gate that lives, with a lessee that of a closed one.
func (g *Gate) carry(ctx context.Context, p *product, at time.Time, lessee string) error {
	for {
		log, err := g.readLog(ctx, p)
		if err != nil || log == nil {
			return err
		}
		c := Carried{At: at, Born: log.bornEpoch, Epoch: log.epoch}
		if c.Lines, err = log.parse(); err != nil {
			return err
		}
		final := len(log.lines) < carryMost
		if final {
			// Another process' gate is a replica's or an older one's: it has what was
			// decided, but perhaps not all.
			here := log.stamp == log.on
			c.Living = here && lessee == ""
			c.Closed = here && lessee == log.stamp
		}
		if err := g.store.Carry(ctx, p.id, c); err != nil {
			return err
		}
		if n := int64(len(log.lines)); n > 0 {
			failpoint.Hit(failpoint.TrimBefore)
			if _, _, err := g.call(ctx, trimScript, p.keys, log.born, log.first+n-1); err != nil {
				return err
			}
			failpoint.Hit(failpoint.TrimAfter)
		}
		if final {
			return nil
		}
	}
}

// logPiece is the beginning of a gate's log.
type logPiece struct {
	born             string // which gate: places are its own
	bornEpoch, epoch int64
	stamp, on        string // of the gate; of the process that was asked
	first, last      int64  // places in the list
	run              string // the open run, "" for none
	lines            []string
}

// readLog reads the gate's log; nil where there is none, or its list was lost.
func (g *Gate) readLog(ctx context.Context, p *product) (*logPiece, error) {
	reply, on, err := g.call(ctx, linesScript, p.keys, carryMost)
	if err != nil || reply == nil {
		return nil, err
	}
	r, err := answerOf(reply, 7)
	if err != nil {
		return nil, err
	}
	log := &logPiece{
		born: r.text(0), bornEpoch: r.number(0), stamp: r.text(1), on: on, first: r.number(2), last: r.number(3),
		epoch: r.number(4), run: r.text(5),
	}
	lines, ok := r.items[6].([]any)
	if !ok || r.err != nil {
		return nil, fmt.Errorf("%w: the log's lines", errors.Join(errAnswer, r.err))
	}
	for _, line := range lines {
		text, ok := line.(string)
		if !ok {
			return nil, errAnswer
		}
		log.lines = append(log.lines, text)
	}
	return log, nil
}

// parse reads the lines, the open run last where all before it are here.
func (l *logPiece) parse() ([]NumberedLine, error) {
	texts := l.lines
	if l.run != "" && len(texts) < carryMost {
		texts = append(texts[:len(texts):len(texts)], l.run)
	}
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

// parseLine reads "epoch number kind …" as gate.lua writes it.
func parseLine(text string) (NumberedLine, error) {
	fields := strings.Fields(text)
	want := map[string]int{"o": 4, "g": 5, "r": 5, "x": 9}
	if len(fields) < 3 || len(fields) != want[fields[2]] {
		return NumberedLine{}, fmt.Errorf("%w: line %q", errAnswer, text)
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
		return NumberedLine{}, fmt.Errorf("%w: line %q: %w", errAnswer, text, wrong)
	}
	return l, nil
}
