package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/tools/arrival"
	"github.com/dopaminestore/dopamine/tools/books"
)

// violation is a rule that did not hold.
type violation struct {
	Rule string `json:"rule"`
	What string `json:"what"`
}

// verdict collects what a run's checks found.
type verdict struct {
	violations []violation
	notes      []string
}

func (v *verdict) broke(rule, format string, args ...any) {
	v.violations = append(v.violations, violation{rule, fmt.Sprintf(format, args...)})
}

func (v *verdict) note(format string, args ...any) {
	v.notes = append(v.notes, fmt.Sprintf(format, args...))
}

// event is one of the store, as far as the checks need it.
type event struct {
	position   int64
	id, stream uuid.UUID
	version    int
	key        uuid.UUID
	kind       string
	recordedAt time.Time
	payload    payload
}

type payload struct {
	Unit            int       `json:"unit"`
	ArrivalSequence int64     `json:"arrivalSequence"`
	UserID          uuid.UUID `json:"userId"`
	Stock           int       `json:"stock"`
	TotalStock      int       `json:"totalStock"`
	ReclaimStatus   string    `json:"reclaimStatus"`
	PaymentID       uuid.UUID `json:"paymentId"`
	TTL             int64     `json:"ttl"` // ms
	RefundID        uuid.UUID `json:"refundReference"`
	Cause           string    `json:"cause"`
	DisputeID       string    `json:"disputeId"`
	Price           amount    `json:"price"`
	Amount          amount    `json:"amount"` // of a refund
}

// amount is money as the store has it; the sale has one currency.
type amount struct {
	Amount decimal.Decimal `json:"amount"`
}

func readEvents(ctx context.Context, f *fleet) ([]event, error) {
	rows, err := f.db.Query(ctx, `SELECT position, id, stream, version, key, type, recorded_at, payload::text FROM events ORDER BY position`)
	if err != nil {
		return nil, fmt.Errorf("read the events: %w", err)
	}
	defer rows.Close()
	var all []event
	for rows.Next() {
		var e event
		var text string
		if err := rows.Scan(&e.position, &e.id, &e.stream, &e.version, &e.key, &e.kind, &e.recordedAt, &text); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(text), &e.payload); err != nil {
			return nil, fmt.Errorf("payload of event %d (%s): %w", e.position, e.kind, err)
		}
		all = append(all, e)
	}
	return all, rows.Err()
}

// slot is one as the events have it.
type slot struct {
	product, user uuid.UUID
	unit          int
	sequence      int64
	acquired      time.Time
	ttl           time.Duration
	status        string // ACTIVE, COMPLETED, EXPIRED, RETURNED
	pending       int    // payments
}

// ledger is the fold of all events.
type ledger struct {
	slots    map[uuid.UUID]*slot
	total    map[uuid.UUID]int                     // units, by product
	units    map[uuid.UUID]map[int]uuid.UUID       // held, by product and unit
	buyers   map[uuid.UUID]map[uuid.UUID]uuid.UUID // holders, by product
	numbers  map[uuid.UUID]map[int64]bool
	acquired map[uuid.UUID]int
	payments map[uuid.UUID]*money
	latest   time.Duration // of an expiry behind its deadline
}

type money struct {
	initiated         bool
	completed, failed int
	due               int // refunds
}

// fold goes through the log and reports every moment at which R1, R3, R5 or the
// order of the log did not hold.
func fold(all []event, v *verdict) *ledger {
	l := &ledger{slots: map[uuid.UUID]*slot{}, total: map[uuid.UUID]int{}, units: map[uuid.UUID]map[int]uuid.UUID{},
		buyers: map[uuid.UUID]map[uuid.UUID]uuid.UUID{}, numbers: map[uuid.UUID]map[int64]bool{}, acquired: map[uuid.UUID]int{},
		payments: map[uuid.UUID]*money{}}
	versions := map[uuid.UUID]int{}
	var last event
	for _, e := range all {
		if e.position != last.position+1 {
			v.broke("log", "position %d follows position %d", e.position, last.position)
		}
		if e.recordedAt.Before(last.recordedAt) {
			v.broke("log", "event %d was recorded before event %d", e.position, last.position)
		}
		if versions[e.stream]++; e.version != versions[e.stream] {
			v.broke("log", "event %d has version %d in its stream, want %d", e.position, e.version, versions[e.stream])
		}
		l.add(e, v)
		last = e
	}
	return l
}

func (l *ledger) payment(id uuid.UUID) *money {
	if l.payments[id] == nil {
		l.payments[id] = &money{}
	}
	return l.payments[id]
}

func (l *ledger) add(e event, v *verdict) {
	p := e.payload
	switch e.kind {
	case "ProductCreated":
		l.total[e.key] = p.Stock
		l.units[e.key], l.buyers[e.key], l.numbers[e.key] = map[int]uuid.UUID{}, map[uuid.UUID]uuid.UUID{}, map[int64]bool{}
	case "ProductStockIncreased", "ProductStockDecreased":
		l.total[e.key] = p.TotalStock
	case "GrantWithdrawn":
		l.number(e, v)
	case "SlotAcquired":
		l.acquire(e, v)
	case "SlotExpired":
		s := l.slots[e.stream]
		if s == nil || s.status != "ACTIVE" {
			v.broke("R5", "slot %s expired at position %d and was not active", e.stream, e.position)
			return
		}
		s.status = "EXPIRED"
		l.free(e, s)
		if p.ReclaimStatus == "AUTO_EXPIRED" && s.pending == 0 {
			l.latest = max(l.latest, e.recordedAt.Sub(s.acquired.Add(s.ttl)))
		}
		if p.ReclaimStatus == "AUTO_EXPIRED" && e.recordedAt.Before(s.acquired.Add(s.ttl)) {
			v.broke("R5", "slot %s expired %s before its deadline", e.stream, s.acquired.Add(s.ttl).Sub(e.recordedAt))
		}
	case "SlotReturned":
		s := l.slots[e.stream]
		if s == nil || s.status != "COMPLETED" {
			v.broke("R5", "slot %s was returned at position %d and was not completed", e.stream, e.position)
			return
		}
		s.status = "RETURNED"
		l.free(e, s)
	case "PaymentInitiated":
		m := l.payment(p.PaymentID)
		m.initiated = true
		if s := l.slots[e.stream]; s != nil {
			s.pending++
		}
	case "PaymentFailed":
		l.payment(p.PaymentID).failed++
		if s := l.slots[e.stream]; s != nil {
			s.pending--
		}
	case "PaymentCompleted":
		m := l.payment(p.PaymentID)
		if m.completed++; m.completed > 1 {
			v.broke("R7", "payment %s completed %d times", p.PaymentID, m.completed)
		}
		s := l.slots[e.stream]
		if s == nil || s.status != "ACTIVE" {
			v.broke("R5", "slot %s completed at position %d and was not active", e.stream, e.position)
			return
		}
		s.status = "COMPLETED"
	case "RefundDue":
		l.payment(p.PaymentID).due++
	}
}

func (l *ledger) acquire(e event, v *verdict) {
	p, units := e.payload, l.units[e.key]
	if units == nil {
		v.broke("log", "event %d is of a product that was not created", e.position)
		return
	}
	if other, held := units[p.Unit]; held {
		v.broke("R1", "unit %d of product %s went to slot %s while slot %s held it", p.Unit, e.key, e.stream, other)
	}
	if p.Unit < 1 || p.Unit > l.total[e.key] {
		v.broke("R1", "unit %d of product %s with %d units was granted", p.Unit, e.key, l.total[e.key])
	}
	if other, holds := l.buyers[e.key][p.UserID]; holds {
		v.broke("R3", "buyer %s got slot %s while holding slot %s", p.UserID, e.stream, other)
	}
	l.number(e, v)
	units[p.Unit], l.buyers[e.key][p.UserID] = e.stream, e.stream
	l.slots[e.stream] = &slot{product: e.key, user: p.UserID, unit: p.Unit, sequence: p.ArrivalSequence, acquired: e.recordedAt,
		ttl: time.Duration(p.TTL) * time.Millisecond, status: "ACTIVE"}
	l.acquired[e.key]++
	if len(units) > l.total[e.key] {
		v.broke("R1", "%d units of product %s are held of %d", len(units), e.key, l.total[e.key])
	}
}

// number is R6: each is claimed or withdrawn, once.
func (l *ledger) number(e event, v *verdict) {
	n := e.payload.ArrivalSequence
	if l.numbers[e.key][n] {
		v.broke("R6", "number %d of product %s was used twice", n, e.key)
	}
	if l.numbers[e.key] != nil {
		l.numbers[e.key][n] = true
	}
}

func (l *ledger) free(e event, s *slot) {
	delete(l.units[e.key], s.unit)
	delete(l.buyers[e.key], s.user)
}

// resales measures, by product, how long after a slot of a sold-out product had
// ended its unit was granted again, while buyers asked for it: until a moment, and not
// across a pause. It includes the time until a buyer asks.
func resales(all []event, until time.Time) map[uuid.UUID][]time.Duration {
	found := map[uuid.UUID][]time.Duration{}
	held, total := map[uuid.UUID]int{}, map[uuid.UUID]int{}
	since, paused := map[uuid.UUID]time.Time{}, map[uuid.UUID]bool{}
	for _, e := range all {
		switch e.kind {
		case "ProductCreated":
			total[e.key] = e.payload.Stock
		case "ProductStockIncreased", "ProductStockDecreased":
			total[e.key] = e.payload.TotalStock
		case "ProductSalePaused", "ProductSaleResumed":
			paused[e.key] = e.kind == "ProductSalePaused"
			delete(since, e.key)
		case "SlotAcquired":
			held[e.key]++
			if at, ok := since[e.key]; ok {
				found[e.key] = append(found[e.key], e.recordedAt.Sub(at))
				delete(since, e.key)
			}
		case "SlotExpired", "SlotReturned":
			if held[e.key] == total[e.key] && !paused[e.key] && e.recordedAt.Before(until) {
				since[e.key] = e.recordedAt
			}
			held[e.key]--
		}
	}
	return found
}

// checkHistory is R4 and R6 as clients saw them.
func checkHistory(all []attempt, l *ledger, v *verdict) {
	first := map[string]time.Duration{} // a buyer's first request: a lost answer is asked for again
	grants := map[string][]arrival.Grant{}
	for i := range all {
		a := &all[i]
		switch {
		case a.Op == "acquire" && a.Slug == "duplicate-slot":
			v.broke("R3", "a request that was repeated with its key was refused as duplicate (buyer %s)", a.Buyer)
		case a.Op == "acquire":
			if _, ok := first[a.Buyer]; !ok {
				first[a.Buyer] = a.Sent
			}
			if a.granted() {
				grants[a.Product] = append(grants[a.Product], arrival.Grant{Sent: first[a.Buyer], Answered: a.Answered, Sequence: a.Sequence})
				checkGrant(a, l, v)
			}
		case a.Op == "release" && a.Status == http.StatusNoContent:
			if s := l.slots[parse(a.Slot)]; s == nil || s.status != "EXPIRED" {
				v.broke("R4", "slot %s was released by a 204 and has not ended", a.Slot)
			}
		case a.Op == "pay" && a.Status == http.StatusCreated:
			if m := l.payments[parse(a.Payment)]; m == nil || !m.initiated {
				v.broke("R4", "payment %s was answered 201 and is not in the log", a.Payment)
			}
		case a.Op == "refund" && a.Status == http.StatusCreated:
			if m := l.payments[parse(a.Payment)]; m == nil || m.due == 0 {
				v.broke("R4", "the refund of payment %s was answered 201 and is not in the log", a.Payment)
			}
		}
	}
	for product, granted := range grants {
		arrival.Inversions(granted, func(sequence, higher int64) {
			v.broke("R6", "product %s: number %d was requested after the response with number %d", product, sequence, higher)
		})
	}
}

func parse(id string) uuid.UUID {
	u, _ := uuid.Parse(id)
	return u
}

// checkGrant is R4: what was answered 201 is in the log as it was answered.
func checkGrant(a *attempt, l *ledger, v *verdict) {
	s := l.slots[parse(a.Slot)]
	switch {
	case s == nil:
		v.broke("R4", "slot %s was answered 201 and is not in the log", a.Slot)
	case s.unit != a.Unit || s.sequence != a.Sequence || s.user.String() != a.Buyer || s.product.String() != a.Product:
		v.broke("R4", "slot %s was answered as unit %d, number %d; the log has unit %d, number %d", a.Slot, a.Unit, a.Sequence, s.unit, s.sequence)
	}
}

// checkFairness is R6 as the gates recorded it.
func checkFairness(ctx context.Context, s *sale, l *ledger, all []attempt, v *verdict) error {
	decided, granted := map[string]int64{}, map[string]int64{}
	for i := range all {
		a := &all[i]
		if a.Op != "acquire" {
			continue
		}
		if a.granted() {
			granted[a.Product+a.Slot]++ // a repeated answer is no decision
			if granted[a.Product+a.Slot] == 1 {
				decided[a.Product]++
			}
		} else if a.Status == http.StatusConflict {
			decided[a.Product]++
		}
	}
	for _, p := range s.products {
		var report struct {
			Decided, Granted, Inversions int64
			Complete                     bool
		}
		var breaks []string
		// The log is at most 2 s behind the gate.
		reading, cancel := context.WithTimeout(ctx, 8*time.Second)
		err := poll(reading, 300*time.Millisecond, "the decision log", func() error {
			if err := s.get(reading, "/v1/products/"+p.id+"/fairness", &report); err != nil {
				return err
			}
			if report.Complete && (report.Decided < decided[p.id] || report.Granted < int64(l.acquired[parse(p.id)])) {
				return errors.New("it lacks decisions")
			}
			return nil
		})
		cancel()
		if err != nil && report.Decided == 0 {
			return err
		}
		if report.Complete && report.Decided < decided[p.id] {
			v.broke("R6", "product %s: the decision log is complete with %d decisions, clients have seen %d", p.id, report.Decided, decided[p.id])
		}
		if report.Complete && report.Granted < int64(l.acquired[parse(p.id)]) {
			v.broke("R6", "product %s: the decision log is complete with %d grants, the store has %d", p.id, report.Granted, l.acquired[parse(p.id)])
		}
		if !report.Complete {
			v.note("product %s: decision log not complete", p.id)
		}
		if report.Inversions > 0 {
			v.broke("R6", "product %s: %d inversions", p.id, report.Inversions)
		}
		var body string
		reading, cancel = context.WithTimeout(ctx, 8*time.Second)
		err = poll(reading, 300*time.Millisecond, "the decision log's text", func() (err error) {
			body, err = s.raw(reading, "/v1/products/"+p.id+"/fairness/log")
			return err
		})
		cancel()
		if err != nil {
			return err
		}
		if _, err := fairness.Verify(strings.NewReader(body), func(e error) { breaks = append(breaks, e.Error()) }); err != nil {
			return fmt.Errorf("fold the decision log of product %s: %w", p.id, err)
		}
		for i, b := range breaks {
			if i < 3 && report.Complete {
				v.broke("R6", "decision log of product %s: %s", p.id, b)
			}
		}
		if len(breaks) > 0 && !report.Complete {
			v.note("product %s: %d lines of an incomplete log do not fold", p.id, len(breaks))
		}
	}
	return nil
}

// get reads an object of the query API.
func (s *sale) get(ctx context.Context, path string, into any) error {
	body, err := s.raw(ctx, path)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(body), into)
}

func (s *sale) raw(ctx context.Context, path string) (string, error) {
	return s.rawAs(ctx, s.admin, path)
}

func (s *sale) rawAs(ctx context.Context, bearer, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.fleet.queryURL+path, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	resp, err := s.http.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %d %s", path, resp.StatusCode, b)
	}
	return string(b), err
}

// checkMoney is R7: it waits until our events and the gateway's books agree to the
// unit, payment by payment, and nothing is on its way any more.
func checkMoney(ctx context.Context, s *sale, sc *scenario, v *verdict) error {
	timeout := moneyLimit
	if sc.worstGateway {
		timeout = worstMoneyLimit
	}
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var ours books.Payments
	var breaches []error
	var differences []string
	err := poll(waiting, 500*time.Millisecond, "events and the gateway's books to agree", func() error {
		all, err := readEvents(ctx, s.fleet)
		if err != nil {
			return err
		}
		theirs, err := books.Read(ctx, s.http, s.fleet.gatewayURL)
		if err != nil {
			return err
		}
		ours, breaches = payments(all)
		if sc.losesTail {
			if err := forgetUnpublished(ctx, s.fleet, ours, theirs, v); err != nil {
				return err
			}
		}
		differences = ours.Differences(theirs)
		for id := range theirs {
			if ours[id] == nil && !sc.losesTail {
				differences = append(differences, fmt.Sprintf("payment %s is in the gateway's books only", id))
			}
		}
		if len(differences) > 0 {
			return fmt.Errorf("%d differences: %s", len(differences), differences[0])
		}
		return nil
	})
	if ours == nil {
		return err
	}
	for _, b := range breaches {
		v.broke("R7", "%s", b)
	}
	for _, d := range differences {
		v.broke("R7", "after %s: %s", timeout, d)
	}
	sums := ours.Sums()
	v.note("%d payments, %s, kept %s", len(ours), sums, sums.Kept())
	return nil
}

// forgetUnpublished takes refunds out of the gateway's books whose events the store lost before the
// relay had published them: neither the store nor the topic knows their ids, and the gateway answers
// by id only (docs/restore.md, "What the relay had not published").
func forgetUnpublished(ctx context.Context, f *fleet, ours books.Payments, theirs books.Gateway, v *verdict) error {
	var records []*kgo.Record // read once, if necessary
	for id, p := range ours {
		entry := theirs[id]
		if entry == nil || !entry.Refunded.GreaterThan(p.Sums().Refunded) || len(p.Refunds) > 0 {
			continue
		}
		if records == nil {
			var err error
			if records, _, err = readTopic(ctx, f.brokers, f.topic); err != nil {
				return fmt.Errorf("read the topic: %w", err)
			}
		}
		if !slices.ContainsFunc(records, func(r *kgo.Record) bool { return bytes.Contains(r.Value, []byte(id.String())) && isRefund(r) }) {
			v.note("payment %s: a refund was lost with the store before it was published", id)
			entry.Refunded = decimal.Zero
		}
	}
	return nil
}

// isRefund reports whether a record is an event of a refund.
func isRefund(r *kgo.Record) bool {
	return slices.ContainsFunc(r.Headers, func(h kgo.RecordHeader) bool {
		return h.Key == avsc.HeaderEventType && strings.HasPrefix(string(h.Value), "Refund")
	})
}

// payments folds the events of payments.
func payments(all []event) (books.Payments, []error) {
	folded, breaches := books.Payments{}, []error(nil)
	for _, e := range all {
		entry := books.Event{Kind: e.kind, Payment: e.payload.PaymentID, Slot: e.stream, Refund: e.payload.RefundID,
			Amount: e.payload.Amount.Amount, Cause: e.payload.Cause, Dispute: e.payload.DisputeID}
		if e.kind == "PaymentInitiated" {
			entry.Amount = e.payload.Price.Amount
		}
		breaches = append(breaches, folded.Apply(entry)...)
	}
	return folded, breaches
}
