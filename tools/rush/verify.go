package rush

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/tools/arrival"
	"github.com/dopaminestore/dopamine/tools/books"
)

// logTimeout is how long the decision log may take to contain every decision: it is at most two
// seconds behind the gate, and a rebuild of the gate in between adds some more.
const logTimeout = 20 * time.Second

// readBack reads from the APIs what happened and checks it against the rules.
func readBack(ctx context.Context, api *api, p product, attempts []attempt, rep *Report) error {
	var positions []string
	for _, a := range attempts {
		if a.granted() && a.position != "" {
			positions = append(positions, a.position)
		}
	}
	seen, entries, err := settledView(ctx, api, p.ID, after(positions))
	if err != nil {
		return err
	}
	l := foldAudit(entries, seen.TotalStock, rep)
	checkUnits(l, seen, attempts, rep)
	checkDurable(l, attempts, rep)
	checkArrival(attempts, rep)
	return checkLog(ctx, api, p.ID, l, rep)
}

// settledView reads product and audit until the two are of one moment: slots
// may go on ending while we read.
func settledView(ctx context.Context, api *api, id uuid.UUID, h map[string][]string) (product, []entry, error) {
	const tries = 20
	for i := 0; ; i++ {
		before, err := api.product(ctx, id, h)
		if err != nil {
			return before, nil, err
		}
		entries, err := api.audit(ctx, id, h)
		if err != nil {
			return before, nil, err
		}
		now, err := api.product(ctx, id, h)
		if err != nil {
			return now, nil, err
		}
		if (before == now && now.Stock == now.TotalStock-live(entries)) || i == tries {
			return now, entries, nil
		}
		if err := waitUntil(ctx, time.Now().Add(100*time.Millisecond)); err != nil {
			return now, nil, err
		}
	}
}

func live(entries []entry) int {
	n := 0
	for _, e := range entries {
		switch e.Type {
		case "SlotAcquired":
			n++
		case "SlotExpired", "SlotReturned":
			n--
		}
	}
	return n
}

// ledger is the product's slots according to the audit.
type ledger struct {
	slots    map[uuid.UUID]*record
	units    map[int]uuid.UUID       // held now, by which slot
	holders  map[uuid.UUID]uuid.UUID // current holders
	acquired int
	expired  int
	payments books.Payments
}

type record struct {
	user     uuid.UUID
	unit     int
	sequence int64
	ends     int
	paid     bool
}

// foldAudit folds the audit in order and reports every violation of R1, R3 or R5.
func foldAudit(entries []entry, total int, rep *Report) *ledger {
	l := &ledger{slots: map[uuid.UUID]*record{}, units: map[int]uuid.UUID{}, holders: map[uuid.UUID]uuid.UUID{}, payments: books.Payments{}}
	numbers := map[int64]uuid.UUID{}
	for _, e := range entries {
		l.foldMoney(e, rep)
		switch e.Type {
		case "SlotAcquired":
			var m struct {
				Unit            int   `json:"unit"`
				ArrivalSequence int64 `json:"arrivalSequence"`
			}
			if err := json.Unmarshal(e.Metadata, &m); err != nil {
				rep.broke("R1", "slot %s: its metadata cannot be read: %v", e.SlotID, err)
				continue
			}
			if other, taken := l.units[m.Unit]; taken {
				rep.broke("R1", "unit %d went to slot %s while slot %s held it", m.Unit, e.SlotID, other)
			}
			if other, holds := l.holders[e.UserID]; holds {
				rep.broke("R3", "a buyer got slot %s while holding slot %s", e.SlotID, other)
			}
			if other, used := numbers[m.ArrivalSequence]; used {
				rep.broke("R6", "number %d was used for slot %s and for slot %s", m.ArrivalSequence, other, e.SlotID)
			}
			if m.Unit < 1 || m.Unit > total {
				rep.broke("R1", "unit %d of %d was granted", m.Unit, total)
			}
			numbers[m.ArrivalSequence] = e.SlotID
			l.units[m.Unit], l.holders[e.UserID] = e.SlotID, e.SlotID
			l.slots[e.SlotID] = &record{user: e.UserID, unit: m.Unit, sequence: m.ArrivalSequence}
			l.acquired++
			if len(l.units) > total {
				rep.broke("R1", "%d units were held of %d", len(l.units), total)
			}
		case "SlotExpired", "PaymentCompleted":
			s := l.slots[e.SlotID]
			if s == nil {
				rep.broke("R5", "slot %s ended without having begun", e.SlotID)
				continue
			}
			if s.ends++; s.ends > 1 {
				rep.broke("R5", "slot %s ended %d times", e.SlotID, s.ends)
			}
			s.paid = e.Type == "PaymentCompleted"
			if e.Type == "SlotExpired" {
				delete(l.units, s.unit)
				delete(l.holders, s.user)
				l.expired++
			}
		}
	}
	return l
}

// checkUnits checks R2: every unit that is not held is free, and no buyer was finally refused while
// a unit stayed free.
func checkUnits(l *ledger, p product, attempts []attempt, rep *Report) {
	if p.Stock != p.TotalStock-len(l.units) {
		rep.broke("R2", "%d units of %d are held, yet %d are shown as free", len(l.units), p.TotalStock, p.Stock)
	}
	soldOut := slices.ContainsFunc(attempts[max(0, len(attempts)-1):], func(a attempt) bool { return a.slug == "sold-out" })
	if p.Stock > 0 && l.expired == 0 && soldOut {
		rep.broke("R2", "%d units stayed free although buyers requested them", p.Stock)
	}
	// A buyer requests one slot. If the last response is duplicate-slot, the buyer was granted a
	// slot by a response that was lost, for instance with its node.
	granted := rep.Granted + rep.Refusals["duplicate-slot"]
	if want := min(rep.Stock, rep.Buyers); l.expired == 0 && rep.Errors == 0 && granted != want {
		rep.broke("R2", "%d units were granted, %d should have been", granted, want)
	}
}

// checkDurable checks R4: every grant that was answered 201 is in the log with the same content.
func checkDurable(l *ledger, attempts []attempt, rep *Report) {
	for _, a := range attempts {
		if !a.granted() {
			continue
		}
		s := l.slots[a.slot.ID]
		switch {
		case s == nil:
			rep.broke("R4", "slot %s was answered 201 and is not in the audit", a.slot.ID)
		case s.unit != a.slot.Unit || s.sequence != a.slot.ArrivalSequence:
			rep.broke("R4", "slot %s was answered as unit %d, number %d; the audit has unit %d, number %d",
				a.slot.ID, a.slot.Unit, a.slot.ArrivalSequence, s.unit, s.sequence)
		}
	}
}

// checkArrival checks R6 as the buyers observe it: a buyer who sent the request after another's
// response had arrived has the higher number.
func checkArrival(attempts []attempt, rep *Report) {
	asked := map[int]time.Duration{} // a buyer's first click: a response may be lost and the request retried
	for _, a := range attempts {
		if t, ok := asked[a.buyer]; !ok || a.sent < t {
			asked[a.buyer] = a.sent
		}
	}
	var granted []arrival.Grant
	for _, a := range attempts {
		if a.granted() {
			granted = append(granted, arrival.Grant{Sent: asked[a.buyer], Answered: a.answered, Sequence: a.slot.ArrivalSequence})
		}
	}
	arrival.Inversions(granted, func(sequence, higher int64) {
		rep.broke("R6", "number %d was requested after the response with number %d", sequence, higher)
	})
}

// checkLog checks R6 in the gate's decision log: it folds without inversions, and has at least the
// decisions that the buyers received.
func checkLog(ctx context.Context, api *api, id uuid.UUID, l *ledger, rep *Report) error {
	heard := int64(rep.Granted + rep.Refused)
	for deadline := time.Now().Add(logTimeout); ; {
		f, err := api.fairness(ctx, id)
		if err != nil {
			return err
		}
		rep.Inversions = f.Inversions
		if (f.Decided >= heard && f.Granted >= int64(l.acquired)) || !f.Complete || time.Now().After(deadline) {
			if f.Complete && f.Decided < heard {
				rep.broke("R6", "the decision log has %d decisions, the buyers received %d", f.Decided, heard)
			}
			break
		}
		if err := waitUntil(ctx, time.Now().Add(200*time.Millisecond)); err != nil {
			return err
		}
	}
	if rep.Inversions > 0 {
		rep.broke("R6", "%d requests were refused while a unit was free", rep.Inversions)
	}
	_, err := api.fold(ctx, id, func(wrong error) { rep.broke("R6", "the decision log: %v", wrong) })
	if err != nil {
		return fmt.Errorf("fold the decision log: %w", err)
	}
	return nil
}
