package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/tools/devservices"
)

// Parameters and targets of the stream measurement.
const (
	listeners     = 10_000
	streamChanges = 20
	streamEvery   = time.Second
	streamQuiet   = 4 * time.Second // in which an idle server's processor time is taken
	stopAim       = 10              // s
	bareEvent     = "event.bytes"   // the file of what the bare loop writes
)

// streamsSection holds open product streams on one query API process, changes the product as a
// projector does, and measures the time from that commit to each listener. For comparison, a bare
// loop writes the same bytes to connections of the same crowd.
func streamsSection(ctx context.Context, out *report) error {
	s, db, err := startReader(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	api := s.roles[0]
	shoe, err := streamedProduct(ctx, db)
	if err != nil {
		return err
	}
	before, err := api.resident()
	if err != nil {
		return err
	}
	crowd, err := newCrowd(s.query, fmt.Sprintf("GET /v1/products/%s/stream HTTP/1.1\r\nHost: x\r\n\r\n", shoe), listeners)
	if err != nil {
		return err
	}
	defer crowd.close()
	if _, err := crowd.receive(); err != nil {
		return err
	}
	idle, err := api.share(ctx, streamQuiet)
	if err != nil {
		return err
	}
	with, err := api.resident()
	if err != nil {
		return err
	}
	place := int64(1)
	ours, err := measureStreams(ctx, api, crowd, func() error { place++; return change(ctx, db, shoe, place) })
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, bareEvent), crowd.last, 0o600); err != nil {
		return err
	}
	stopped, err := api.stopWithin(crowd)
	if err != nil {
		return err
	}
	crowd.close() // a process has not files for two crowds
	bare, bareMemory, err := s.bareStreams(ctx)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d product streams", listeners)
	const limit = "bare loop of writes"
	out.add(
		row{what: what + ", commit to listener, p50", figure: percentile(ours.took, 0.5), limit: percentile(bare.took, 0.5), unit: "ms", limitIs: limit},
		row{what: what + ", commit to listener, p99", figure: percentile(ours.took, 0.99), limit: percentile(bare.took, 0.99), unit: "ms", limitIs: limit},
		row{what: what + ", CPU of a change", figure: ours.cpu, limit: bare.cpu, unit: "ms", limitIs: limit},
		row{what: what + ", CPU while nothing changes", figure: 100 * idle, unit: "% of a core"},
		row{what: what + ", resident memory of one", figure: (with - before) * 1024 / listeners, limit: bareMemory, unit: "KiB", limitIs: limit},
		row{what: what + ", all ended at the server's stop after", figure: stopped.Seconds(), unit: "s", aim: atMost(stopAim, "s")},
	)
	return nil
}

// streamed is the result of the measurement.
type streamed struct {
	took []float64 // ms, from a change to a listener
	cpu  float64   // ms of the server's processor time, of one change
}

// measureStreams makes changes at moments of no rhythm and sees them arrive.
func measureStreams(ctx context.Context, server *process, c *crowd, change func() error) (streamed, error) {
	var m streamed
	before, err := server.cpu()
	if err != nil {
		return m, err
	}
	for range streamChanges {
		if err := wait(ctx, streamEvery+rand.N(streamEvery/4)); err != nil {
			return m, err
		}
		if err := change(); err != nil {
			return m, err
		}
		changed := time.Now()
		at, err := c.receive()
		if err != nil {
			return m, err
		}
		for _, t := range at {
			m.took = append(m.took, float64(t.Sub(changed).Microseconds())*milli)
		}
	}
	after, err := server.cpu()
	m.cpu = float64((after - before).Milliseconds()) / streamChanges
	return m, err
}

// startReader starts a Postgres and a query API on it, and nothing else.
func startReader(ctx context.Context) (_ *system, _ *pgx.Conn, err error) {
	s := &system{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := s.build(ctx); err != nil {
		return nil, nil, err
	}
	pg, err := devservices.StartPostgres(ctx, devservices.PostgresOptions{Dir: filepath.Join(s.dir, "postgres"), Disposable: true})
	if err != nil {
		return nil, nil, err
	}
	s.onClose(pg.Stop)
	addr, err := freeAddr()
	if err != nil {
		return nil, nil, err
	}
	s.query = "http://" + addr
	s.environment("DOPAMINE_DATABASE_URL="+pg.URL(), "DOPAMINE_QUERY_ADDR="+addr)
	migrate := exec.CommandContext(ctx, s.binary, "migrate")
	migrate.Env, migrate.Dir = s.env, s.dir
	if text, err := migrate.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("migrate: %w\n%s", err, text)
	}
	api, err := s.spawn("query-api", s.binary, "query-api")
	if err != nil {
		return nil, nil, err
	}
	s.roles = append(s.roles, api)
	db, err := pgx.Connect(ctx, pg.URL())
	if err != nil {
		return nil, nil, err
	}
	s.onClose(db.Close)
	return s, db, awaitStatus(ctx, s.query+"/health/ready", http.StatusOK)
}

// streamedProduct puts a product into the read model.
func streamedProduct(ctx context.Context, db *pgx.Conn) (uuid.UUID, error) {
	id := uuid.New()
	if _, err := db.Exec(ctx, `
INSERT INTO products_g1 (id, name, description, price, currency, stock, initial_stock, total_stock, sale_date, paused, created_at, updated_at, last_position)
VALUES ($1, 'bench', 'bench', 10, 'KRW', 100000, 100000, 100000, now(), false, now(), now(), 1)`, id); err != nil {
		return id, fmt.Errorf("make a product: %w", err)
	}
	if _, err := db.Exec(ctx, `
INSERT INTO projection_checkpoints (projection, generation, topic, partition, partitions, topic_id, next_offset, position)
SELECT 'products', 1, $1, p, $2, 'bench', 0, 0 FROM generate_series(0, $2 - 1) p`, kafka.Topic, streamPartitions); err != nil {
		return id, fmt.Errorf("make its checkpoints: %w", err)
	}
	return id, nil
}

const streamPartitions = 12

// change commits what a projector commits for an event.
func change(ctx context.Context, db *pgx.Conn, product uuid.UUID, place int64) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE products_g1 SET stock = stock - 1, last_position = $2 WHERE id = $1`, product, place); err != nil {
			return fmt.Errorf("change the product: %w", err)
		}
		if _, err := tx.Exec(ctx, `UPDATE projection_checkpoints SET position = $2, event_id = gen_random_uuid() WHERE partition = $1`,
			kafka.Partition(product, streamPartitions), place); err != nil {
			return fmt.Errorf("move the checkpoint: %w", err)
		}
		return nil
	})
}

// bareStreams measures the limit, and the memory of one of its connections in KiB.
func (s *system) bareStreams(ctx context.Context) (streamed, float64, error) {
	var m streamed
	self, err := os.Executable()
	if err != nil {
		return m, 0, err
	}
	addr, err := freeAddr()
	if err != nil {
		return m, 0, err
	}
	server, err := s.spawn("bare streams", self, "bare-streams", addr, bareEvent)
	if err != nil {
		return m, 0, err
	}
	if err := awaitStatus(ctx, "http://"+addr+"/", http.StatusOK); err != nil {
		return m, 0, err
	}
	before, err := server.resident()
	if err != nil {
		return m, 0, err
	}
	c, err := newCrowd("http://"+addr, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n", listeners)
	if err != nil {
		return m, 0, err
	}
	defer c.close()
	if _, err := c.receive(); err != nil {
		return m, 0, err
	}
	with, err := server.resident()
	if err != nil {
		return m, 0, err
	}
	m, err = measureStreams(ctx, server, c, func() error { return server.cmd.Process.Signal(syscall.SIGUSR1) })
	return m, (with - before) * 1024 / listeners, err
}

// share returns what the process uses of one core while it gets no requests.
func (p *process) share(ctx context.Context, d time.Duration) (float64, error) {
	if err := wait(ctx, d/4); err != nil { // let earlier work settle
		return 0, err
	}
	before, err := p.cpu()
	if err != nil {
		return 0, err
	}
	if err := wait(ctx, d); err != nil {
		return 0, err
	}
	after, err := p.cpu()
	return (after - before).Seconds() / d.Seconds(), err
}

// stopWithin stops the server and returns how long it took until every stream had ended.
func (p *process) stopWithin(c *crowd) (time.Duration, error) {
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	cut, err := c.ends()
	if err == nil && cut > 0 {
		err = fmt.Errorf("%d of %d streams were cut off, instead of ended", cut, listeners)
	}
	return time.Since(began), err
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

var errNoEvent = errors.New("a stream ended, or sent another event")

// lastChunk is the end of a complete chunked response.
var lastChunk = []byte("0\r\n\r\n")

func events(b []byte) int { return bytes.Count(b, []byte("event: product")) }
