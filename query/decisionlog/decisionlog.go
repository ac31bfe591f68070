// Package decisionlog serves a product's decision log, and the fairness report that is folded from
// it (contract 7). Both are public and read the database of the append path: reports are folded
// incrementally, pages of the log are shared, and only a few reads run concurrently.
package decisionlog

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
	"github.com/dopaminestore/dopamine/query/cache"
	"github.com/dopaminestore/dopamine/query/export"
	"github.com/dopaminestore/dopamine/query/readmodel"
)

const (
	// reportTTL is how long a report is reused: it needs no token, and the log may be two seconds
	// behind anyway.
	reportTTL = 100 * time.Millisecond
	// linePage is the number of lines read at a time.
	linePage = 2000
	// maxFolds is the maximum number of products whose folds are kept. Each takes a quarter of a
	// byte per unit of stock.
	maxFolds = 64
	// logConcurrency is the maximum number of concurrent reads of logs, for reports and for
	// clients: they need no token, and read the database of the append path.
	logConcurrency = 4
	// logWait is how long a request waits for the semaphore, logPageWait how long a further page of
	// a started response does.
	logWait, logPageWait = time.Second, 20 * time.Second
	// pageTTL is how long a page of a log is reused. It may be two seconds behind.
	pageTTL     = time.Second
	pageEntries = 64
)

// fairnessReport is the response of GET /v1/products/{id}/fairness.
type fairnessReport struct {
	fairness.Report
	Complete bool `json:"complete"`
}

// GetReport serves GET /v1/products/{id}/fairness.
func (d *Reader) GetReport(c echo.Context) error {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return err
	}
	report, err := d.report(c.Request().Context(), id)
	if err != nil {
		return err
	}
	return httpapi.JSON(c, http.StatusOK, report)
}

// GetLog serves GET /v1/products/{id}/fairness/log.
func (d *Reader) GetLog(c echo.Context) error {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	log, err := d.logState(ctx, id)
	if err != nil {
		return err
	}
	// Decisions made after this are left out: the log ends with the line that is the last one now.
	// Only that line may still grow.
	end := log.end()
	next := func(last *storedLine) ([]storedLine, error) {
		var after linePlace
		if last != nil {
			after = last.linePlace
		}
		return d.page(ctx, id, after, end, last == nil)
	}
	return export.Stream(c, export.TypeNDJSON, nil, next, func(b []byte, l *storedLine) ([]byte, error) {
		return append(l.AppendJSON(b), '\n'), nil
	})
}

// linePlace is a line's place in a product's log. The zero value is before all lines.
type linePlace struct {
	epoch, number int64
}

type storedLine struct {
	linePlace
	fairness.Line
}

// Reader reads the decision logs that the worker ships to Postgres. Create it with New.
type Reader struct {
	pool  *pgxpool.Pool // nil if the write side cannot be read
	turns *semaphore.Weighted
	// first and further cache pages of logs; they differ in how long a request waits for the
	// semaphore.
	first, further *cache.Cache[[]storedLine]

	mu   sync.Mutex
	kept map[uuid.UUID]*keptFold
}

// keptFold is the fold of a log's final lines.
type keptFold struct {
	used   time.Time     // guarded by Reader.mu
	turn   chan struct{} // held while the log is read; guards the fields below
	fold   *fairness.Fold
	folded []lastLine // the last folded line of each epoch
	newest storedLine // the last folded line of all
	report fairnessReport
	at     time.Time // time of the report
}

// New returns a reader of the logs in pool, the write side's database. If pool is nil, its
// responses are 503 unavailable.
func New(pool *pgxpool.Pool) *Reader {
	turns := semaphore.NewWeighted(logConcurrency)
	return &Reader{
		pool: pool, turns: turns, kept: map[uuid.UUID]*keptFold{},
		first:   cache.New[[]storedLine](pageTTL, pageEntries, turns, logWait, readmodel.Timeout),
		further: cache.New[[]storedLine](pageTTL, pageEntries, turns, logPageWait, readmodel.Timeout),
	}
}

// report folds a product's log. It returns ErrNoProduct if the product never existed. Concurrent
// requests share one report.
func (d *Reader) report(ctx context.Context, product uuid.UUID) (fairnessReport, error) {
	k := d.known(product)
	if k == nil {
		if _, err := d.logState(ctx, product); err != nil { // unknown ids must not evict folds
			return fairnessReport{}, err
		}
		k = d.keep(product)
	}
	waited := time.NewTimer(readmodel.Timeout)
	defer waited.Stop()
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-waited.C:
		return fairnessReport{}, readmodel.ErrUnavailable
	case <-ctx.Done():
		return fairnessReport{}, ctx.Err()
	}
	asked := time.Now()
	if asked.Sub(k.at) < reportTTL {
		return k.report, nil
	}
	if err := cache.Acquire(ctx, d.turns, logWait); err != nil {
		return fairnessReport{}, err
	}
	defer d.turns.Release(1)
	log, err := d.logState(ctx, product)
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

// page reads a page of a log that is sent to a client. Clients that read the same log share it.
func (d *Reader) page(ctx context.Context, product uuid.UUID, after, end linePlace, isFirst bool) ([]storedLine, error) {
	pages := d.further
	if isFirst {
		pages = d.first
	}
	return pages.Get(ctx, fmt.Sprint(product, after, end), func(ctx context.Context) ([]storedLine, error) {
		return d.lines(ctx, product, after, end, export.PageSize)
	})
}

// catchUp folds the new lines. If the log's last line is a run of refusals it may still grow; it is
// reported but not folded.
func (d *Reader) catchUp(ctx context.Context, product uuid.UUID, k *keptFold, log logState) (fairness.Report, error) {
	kept := k.fold != nil && log.continues(k.folded)
	if kept && len(k.folded) > 0 { // a store that was restored to an earlier moment may have lost it
		at := k.folded[len(k.folded)-1]
		there, err := d.lines(ctx, product, linePlace{at.epoch, at.number - 1}, at.linePlace, 1)
		if err != nil {
			return fairness.Report{}, err
		}
		kept = len(there) == 1 && there[0] == k.newest
	}
	if !kept {
		k.fold, k.folded = fairness.NewFold(), nil
	}
	var after linePlace
	if n := len(k.folded); n > 0 {
		after = k.folded[n-1].linePlace
	}
	var open *fairness.Line
	for end := log.end(); ; {
		page, err := d.lines(ctx, product, after, end, linePage)
		if err != nil {
			return fairness.Report{}, err
		}
		for i, l := range page {
			if l.linePlace == end && l.Type == fairness.Refused {
				open = &page[i].Line
				break
			}
			_ = k.fold.Add(l.Line) // a break shows as an inversion, and to clients that fold the log
			k.note(lastLine{l.linePlace, l.To})
			after, k.newest = l.linePlace, l
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

// known returns the product's fold, nil if there is none.
func (d *Reader) known(product uuid.UUID) *keptFold {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.kept[product]
	if k != nil {
		k.used = time.Now()
	}
	return k
}

// keep adds a fold for the product unless another request has just done so. If there are too many,
// it replaces the least recently used one.
func (d *Reader) keep(product uuid.UUID) *keptFold {
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

// lastLine is the last line of an epoch; to shows whether a run has grown.
type lastLine struct {
	linePlace
	to int64
}

// logState is the extent of a product's log at one moment.
type logState struct {
	last     []lastLine // of each epoch, in order
	complete bool
}

// end returns the place of the log's last line.
func (s logState) end() linePlace {
	if len(s.last) == 0 {
		return linePlace{}
	}
	return s.last[len(s.last)-1].linePlace
}

// continues reports whether the log is an extension of what was folded. An ended epoch can still
// grow, because its gate's log may be shipped late.
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
