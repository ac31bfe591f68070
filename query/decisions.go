package query

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"golang.org/x/sync/semaphore"

	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

const (
	// reportFor is how long a report is handed out again: nobody needs a token to
	// ask, and the log is allowed to be two seconds behind anyway.
	reportFor = 100 * time.Millisecond
	// linePage is how many lines are read at a time.
	linePage = 2000
	// maxFolds is how many products' folds are kept; each takes a quarter of a byte
	// for each unit of stock.
	maxFolds = 64
	// logConcurrency is how many logs are read at the same time, for reports and for
	// clients: they need no token, and read the database of the append path.
	logConcurrency = 4
	// logWait is how long a request waits for its turn; logPageWait is that of a further
	// page of a log that is already being sent.
	logWait, logPageWait = time.Second, 20 * time.Second
	// pageTTL is how long a page of a log is sent again, which may be two seconds behind.
	pageTTL     = time.Second
	pageEntries = 64
)

// fairnessReport is the answer of GET /v1/products/{id}/fairness.
type fairnessReport struct {
	fairness.Report
	Complete bool `json:"complete"`
}

func (a *API) fairness(c echo.Context) error {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return err
	}
	report, err := a.logs.report(c.Request().Context(), id)
	if err != nil {
		return err
	}
	return httpapi.JSON(c, http.StatusOK, report)
}

func (a *API) fairnessLog(c echo.Context) error {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	log, err := a.logs.look(ctx, id)
	if err != nil {
		return err
	}
	// What is decided from here on is left out: the log ends with what was its
	// last line, which alone may have grown.
	end := log.end()
	next := func(last *storedLine) ([]storedLine, error) {
		var after place
		if last != nil {
			after = last.place
		}
		return a.logs.page(ctx, id, after, end, last == nil)
	}
	return export(c, typeNDJSON, nil, next, func(b []byte, l *storedLine) ([]byte, error) {
		return append(l.AppendJSON(b), '\n'), nil
	})
}

// place is where a line stands in a product's log. The zero place is before all.
type place struct {
	epoch, number int64
}

type storedLine struct {
	place
	fairness.Line
}

// decisionLogs reads the decision logs that the worker carries to Postgres.
type decisionLogs struct {
	pool  *pgxpool.Pool // nil if the write side cannot be read from here
	turns *semaphore.Weighted
	// first and further are pages of logs as they are sent; they differ in how long they
	// wait for their turn.
	first, further *cache[[]storedLine]

	mu   sync.Mutex
	kept map[uuid.UUID]*keptFold
}

// keptFold is a log folded as far as its lines are final.
type keptFold struct {
	used   time.Time     // guarded by decisionLogs.mu
	turn   chan struct{} // taken while the log is read; guards what follows
	fold   *fairness.Fold
	folded []lastLine // the last line of each epoch that is folded
	report fairnessReport
	at     time.Time // of the report
}

func newDecisionLogs(pool *pgxpool.Pool) *decisionLogs {
	turns := semaphore.NewWeighted(logConcurrency)
	return &decisionLogs{
		pool: pool, turns: turns, kept: map[uuid.UUID]*keptFold{},
		first:   newCache[[]storedLine](pageTTL, pageEntries, turns, logWait, readTimeout),
		further: newCache[[]storedLine](pageTTL, pageEntries, turns, logPageWait, readTimeout),
	}
}

// report folds a product's log; errNoProduct where there never was such a
// product. Those who ask while the log is read share one report.
func (d *decisionLogs) report(ctx context.Context, product uuid.UUID) (fairnessReport, error) {
	k := d.known(product)
	if k == nil {
		if _, err := d.look(ctx, product); err != nil { // ids that mean nothing must not push out folds
			return fairnessReport{}, err
		}
		k = d.keep(product)
	}
	waited := time.NewTimer(readTimeout)
	defer waited.Stop()
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-waited.C:
		return fairnessReport{}, errAway
	case <-ctx.Done():
		return fairnessReport{}, ctx.Err()
	}
	asked := time.Now()
	if asked.Sub(k.at) < reportFor {
		return k.report, nil
	}
	if err := take(ctx, d.turns, logWait); err != nil {
		return fairnessReport{}, err
	}
	defer d.turns.Release(1)
	log, err := d.look(ctx, product)
	if err != nil {
		return fairnessReport{}, err
	}
	report, err := d.catchUp(ctx, product, k, log)
	if err != nil {
		return fairnessReport{}, err
	}
	k.report, k.at = fairnessReport{report, log.complete}, asked
	return k.report, nil
}

// page reads a page of a log that is sent to a client. Clients that read the same log
// share it.
func (d *decisionLogs) page(ctx context.Context, product uuid.UUID, after, end place, isFirst bool) ([]storedLine, error) {
	pages := d.further
	if isFirst {
		pages = d.first
	}
	return pages.get(ctx, fmt.Sprint(product, after, end), func(ctx context.Context) ([]storedLine, error) {
		return d.lines(ctx, product, after, end, exportPage)
	})
}

// catchUp folds what is new. A run of refusals that is the log's last line may
// still grow, so it is looked at and not folded.
func (d *decisionLogs) catchUp(ctx context.Context, product uuid.UUID, k *keptFold, log logState) (fairness.Report, error) {
	if k.fold == nil || !log.continues(k.folded) {
		k.fold, k.folded = fairness.NewFold(), nil
	}
	var after place
	if n := len(k.folded); n > 0 {
		after = k.folded[n-1].place
	}
	var open *fairness.Line
	for end := log.end(); ; {
		page, err := d.lines(ctx, product, after, end, linePage)
		if err != nil {
			return fairness.Report{}, err
		}
		for i, l := range page {
			if l.place == end && l.Type == fairness.Refused {
				open = &page[i].Line
				break
			}
			_ = k.fold.Add(l.Line) // a break shows in the inversions, and to who folds the log
			k.note(lastLine{l.place, l.To})
			after = l.place
		}
		if len(page) < linePage || open != nil {
			break
		}
	}
	if open != nil {
		return k.fold.With(*open), nil
	}
	return k.fold.Report(), nil
}

func (k *keptFold) note(l lastLine) {
	if n := len(k.folded); n > 0 && k.folded[n-1].epoch == l.epoch {
		k.folded[n-1] = l
		return
	}
	k.folded = append(k.folded, l)
}

// known is the product's fold, nil where none is kept.
func (d *decisionLogs) known(product uuid.UUID) *keptFold {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.kept[product]
	if k != nil {
		k.used = time.Now()
	}
	return k
}

// keep makes a fold for the product, unless somebody just did, in the place of
// the one that was asked for the longest time ago where there are too many.
func (d *decisionLogs) keep(product uuid.UUID) *keptFold {
	d.mu.Lock()
	defer d.mu.Unlock()
	if k := d.kept[product]; k != nil {
		return k
	}
	if len(d.kept) >= maxFolds {
		var oldest uuid.UUID
		for id, other := range d.kept {
			if o := d.kept[oldest]; o == nil || other.used.Before(o.used) {
				oldest = id
			}
		}
		delete(d.kept, oldest)
	}
	k := &keptFold{used: time.Now(), turn: make(chan struct{}, 1)}
	d.kept[product] = k
	return k
}

// lastLine is the last line of an epoch; to tells whether a run has grown.
type lastLine struct {
	place
	to int64
}

// logState is what a product's log looks like at one moment.
type logState struct {
	last     []lastLine // of each epoch, by epoch
	complete bool
}

// end is the place of the log's last line.
func (s logState) end() place {
	if len(s.last) == 0 {
		return place{}
	}
	return s.last[len(s.last)-1].place
}

// continues says whether the log is what was folded with something behind it. An
// epoch that has ended can still grow: its gate's log may be carried late.
func (s logState) continues(folded []lastLine) bool {
	for i, f := range folded {
		at := slices.IndexFunc(s.last, func(l lastLine) bool { return l.epoch == f.epoch })
		if at != i {
			return false
		}
		if newest := i == len(s.last)-1; !newest && i < len(folded)-1 && s.last[at] != f {
			return false
		}
	}
	return true
}
