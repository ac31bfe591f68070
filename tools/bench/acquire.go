package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// Parameters of the sold-out measurement.
const (
	askers       = 50_000 // buyers with separate tokens, as in a rush
	askLines     = 1000
	askRounds    = 7
	askRound     = 1500 * time.Millisecond
	nodeAim      = 0.7
	microsPerSec = 1e6
)

// side is one of the two servers that are compared.
type side struct {
	process *process
	client  *client
	rates   []float64
	cpu     time.Duration
	answers int64
}

// ask measures one round.
func (s *side) ask(d time.Duration) error {
	before, err := s.process.cpu()
	if err != nil {
		return err
	}
	n, rate, err := s.client.round(d)
	if err != nil {
		return fmt.Errorf("request %s: %w", s.process.name, err)
	}
	after, err := s.process.cpu()
	s.rates, s.answers, s.cpu = append(s.rates, rate), s.answers+n, s.cpu+after-before
	return err
}

func (s *side) cpuMicros() float64 { return s.cpu.Seconds() * microsPerSec / float64(s.answers) }

// acquireSection alternates between a command API whose product is sold out, including the gate,
// and a bare handler, with the same client.
func acquireSection(ctx context.Context, out *report) error {
	s, err := startSystem(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	bareProcess, bareURL, err := s.bare(ctx)
	if err != nil {
		return err
	}
	product, err := s.soldOut(ctx)
	if err != nil {
		return err
	}
	if err := s.sameAnswer(ctx, product, bareURL); err != nil {
		return err
	}
	tokens := make([]string, askers)
	for i := range tokens {
		if tokens[i], err = s.token(uuid.New(), "buyer"); err != nil {
			return err
		}
	}
	ours, bare := &side{process: s.roles[0]}, &side{process: bareProcess}
	for _, x := range []struct {
		*side
		url string
	}{{ours, s.command}, {bare, bareURL}} {
		if x.client, err = newClient(x.url, askLines, tokens, product); err != nil {
			return err
		}
		defer x.client.close()
		if _, _, err := x.client.round(askRound); err != nil { // warm up
			return fmt.Errorf("request %s: %w", x.process.name, err)
		}
	}
	for range askRounds {
		for _, x := range []*side{ours, bare} {
			if err := x.ask(askRound); err != nil {
				return err
			}
		}
	}
	out.add(
		row{what: "acquire, sold out, per node", figure: median(ours.rates), limit: median(bare.rates), unit: "answers/s", limitIs: "bare Echo handler", aim: ratioOf(nodeAim)},
		row{what: "acquire, sold out, the node's CPU", figure: ours.cpuMicros(), limit: bare.cpuMicros(), unit: "µs/answer", limitIs: "bare Echo handler"},
	)
	return nil
}

// soldOut returns a product whose only unit is held.
func (s *system) soldOut(ctx context.Context) (uuid.UUID, error) {
	product, err := s.product(ctx, 1)
	if err != nil {
		return uuid.Nil, err
	}
	token, err := s.token(uuid.New(), "buyer")
	if err != nil {
		return uuid.Nil, err
	}
	resp, err := call(ctx, http.MethodPost, s.command+acquirePath, token, nil, map[string]any{"productId": product}, nil)
	if err != nil {
		return uuid.Nil, err
	}
	if resp.StatusCode != http.StatusCreated {
		return uuid.Nil, fmt.Errorf("acquire the only unit: status %d", resp.StatusCode)
	}
	return product, nil
}

// sameAnswer checks that both respond with the same problem document.
func (s *system) sameAnswer(ctx context.Context, product uuid.UUID, bare string) error {
	var documents [2]map[string]any
	for i, base := range []string{s.command, bare} {
		token, err := s.token(uuid.New(), "buyer")
		if err != nil {
			return err
		}
		resp, err := call(ctx, http.MethodPost, base+acquirePath, token, nil, map[string]any{"productId": product}, &documents[i])
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusConflict {
			return fmt.Errorf("%s answered %d", base, resp.StatusCode)
		}
		delete(documents[i], "traceId")
	}
	if !maps.Equal(documents[0], documents[1]) {
		return fmt.Errorf("the two responses differ: %v", documents)
	}
	return nil
}
