package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/tools/rush"
)

// Parameters and targets of the visibility measurement.
const (
	visibleAim   = 250 // ms, p99
	visibleEvery = 20 * time.Millisecond
	visibleStock = 100_000
)

// visible measures, during a rush at the given rate, how long after its 201 a grant of another
// product is visible at the query API. The query has the grant's position, so it is answered when
// the grant is visible.
func (s *system) visible(ctx context.Context, rate float64, out *report) error {
	product, err := s.product(ctx, visibleStock)
	if err != nil {
		return err
	}
	clicks := &window{begun: make(chan struct{}), ended: make(chan struct{})}
	rushed := make(chan error, 1)
	go func() {
		_, err := rush.Run(ctx, rush.Config{
			Buyers: int(rate * openRush), Stock: rushStock, Connections: fewLines, Rate: rate,
			CommandURLs: []string{s.command}, QueryURL: s.query, Tokens: s.token, Progress: clicks,
		})
		rushed <- err
	}()
	select {
	case err := <-rushed:
		return fmt.Errorf("the rush ended before it began: %w", err)
	case <-clicks.begun:
	}

	var mu sync.Mutex
	var took []float64
	var errs []error
	var all sync.WaitGroup
	every := time.NewTicker(visibleEvery)
	defer every.Stop()
	for rushing := true; rushing; {
		select {
		case <-clicks.ended:
			rushing = false
		case <-every.C:
			all.Go(func() {
				d, err := s.seen(ctx, product)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					errs = append(errs, err)
					return
				}
				took = append(took, float64(d.Microseconds())*milli)
			})
		}
	}
	all.Wait()
	if err := errors.Join(append(errs, <-rushed)...); err != nil {
		return err
	}
	out.add(
		row{what: fmt.Sprintf("grant visible, in a rush of %.0f clicks/s, p50", rate), figure: percentile(took, 0.5), unit: "ms"},
		row{what: fmt.Sprintf("grant visible, in a rush of %.0f clicks/s, p99", rate), figure: percentile(took, 0.99), unit: "ms", aim: atMost(visibleAim, "ms")},
	)
	return nil
}

// seen acquires a slot and waits until the query API has it.
func (s *system) seen(ctx context.Context, product uuid.UUID) (time.Duration, error) {
	token, err := s.token(uuid.New(), "buyer")
	if err != nil {
		return 0, err
	}
	var slot struct{ ID uuid.UUID }
	resp, err := call(ctx, http.MethodPost, s.command+acquirePath, token, nil, map[string]any{"productId": product}, &slot)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusCreated {
		return 0, fmt.Errorf("acquire in a rush: status %d", resp.StatusCode)
	}
	granted := time.Now()
	for {
		again, err := call(ctx, http.MethodGet, s.query+"/v1/slots/"+slot.ID.String(), token,
			http.Header{"X-Min-Position": {resp.Header.Get("X-Position")}}, nil, nil)
		if err != nil {
			return 0, err
		}
		switch again.StatusCode {
		case http.StatusOK:
			return time.Since(granted), nil
		case http.StatusServiceUnavailable: // still behind
		default:
			return 0, fmt.Errorf("read slot %s: status %d", slot.ID, again.StatusCode)
		}
	}
}

// window signals when a rush's first round begins and ends.
type window struct{ begun, ended chan struct{} }

func (w *window) Begin(string, int64) {
	select {
	case <-w.begun: // units were left and the refused click again: not part of the rush
	default:
		close(w.begun)
	}
}

func (w *window) Add(int64) {}

func (w *window) End() {
	select {
	case <-w.ended:
	default:
		close(w.ended)
	}
}
