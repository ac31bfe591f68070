package payments

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/redis"
)

// Gate is what is asked of the gate for late money; *redis.Gate is one.
type Gate interface {
	Decide(ctx context.Context, r redis.Request) (redis.Decision, error)
	GiveBack(ctx context.Context, d redis.Decision) error
	Feed(ctx context.Context, product uuid.UUID) error
	Rebuild(ctx context.Context, product uuid.UUID, epoch int64) error
}

// Config is what a Service works with. It closes none of it.
type Config struct {
	Pool           *pgxpool.Pool      // of the write side's database
	Store          *eventstore.Store  // the writer
	Reader         *eventstore.Reader //
	Claims         *claims.Store      //
	Gate           Gate               // *redis.Gate
	Gateway        gateway.Gateway    //
	CallbackURL    string             // where the gateway is to call us
	PaymentTimeout time.Duration      // how long past its deadline a slot waits for a pending payment, 0 or more
	SlotTTL        time.Duration      // life of a slot, 1 ms or more; a re-grant's too
	SlotWarning    time.Duration      // ahead of a slot's deadline
	Registry       prometheus.Registerer
	Logger         *slog.Logger // nil: slog.Default()
}

func (c *Config) validate() error {
	switch {
	case c.Pool == nil, c.Store == nil, c.Reader == nil, c.Claims == nil, c.Gate == nil, c.Gateway == nil, c.Registry == nil:
		return errors.New("payments: pool, store, reader, claims, gate, gateway and registry are needed")
	case c.PaymentTimeout < 0:
		return fmt.Errorf("payments: a payment timeout of %s; give 0 or more", c.PaymentTimeout)
	case c.SlotTTL < time.Millisecond:
		return fmt.Errorf("payments: a slot's life of %s; give 1ms or more", c.SlotTTL)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

// Service carries payments from their start to their end. Any number of them,
// in any number of processes, work side by side.
type Service struct {
	c Config
}

// New makes a Service. Close ends what it does in the background.
func New(c Config) (*Service, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	return &Service{c: c}, nil
}

// Close waits for what is being asked of the gateway in the background, and
// gives it up when ctx ends: the worker asks then.
func (s *Service) Close(ctx context.Context) error { panic("to come") }

// Start is a buyer's wish to pay.
type Start struct {
	By      domain.Caller
	Slot    uuid.UUID
	Key     uuid.UUID // the idempotency key
	Offered domain.Money
	Method  domain.PaymentMethod
}

// Heard is what the gateway says of a payment.
type Heard struct {
	domain.GatewayWord
	// Unreadable is the amount as told, where a success names one that is no
	// money; Paid is none then.
	Unreadable string
	WebhookID  string // of a callback, remembered with what it causes; "" for an answer to our asking
}

// Step is what the worker is to do for a payment.
type Step int

// The steps.
const (
	Post   Step = iota + 1 // ask the gateway for the money
	Ask                    // ask what became of it
	Refund                 // give the money back
)

// Job is a step that is due.
type Job struct {
	Payment uuid.UUID
	Step    Step
}

// Hear brings a word of the gateway to its effect; see package comment. It
// returns ErrNoPayment, or ErrDelayed where the gate could not answer.
func (s *Service) Hear(ctx context.Context, h Heard) error { panic("to come") }

// Due lists the steps that are due, the longest due first.
func (s *Service) Due(ctx context.Context, limit int) ([]Job, error) { panic("to come") }

// Do takes a step that is due. Where another process was faster it does nothing.
// An error means that the step will come up again by itself.
func (s *Service) Do(ctx context.Context, j Job) error { panic("to come") }

// TimeOut ends a slot that is due (claims.Store.Ends) although a payment of it
// is pending: the gateway is asked once more, and without its final word the
// payment fails and the slot expires, in one append. It does nothing where the
// slot is not due (any more).
func (s *Service) TimeOut(ctx context.Context, slot uuid.UUID) error { panic("to come") }

// Purge forgets idempotency keys and webhook ids that are older than they have
// to be kept.
func (s *Service) Purge(ctx context.Context) error { panic("to come") }

// Waiting is money that waits for a person.
type Waiting struct {
	Payment, Slot, Product, User uuid.UUID
	Amount, Currency             string
	Why                          string    // what stands in the way
	Since                        time.Time // UTC
}

// Waiting lists money that waits for a person: refunds that the gateway
// refuses, payments whose end nobody knows after a week, and amounts that are no
// money.
func (s *Service) Waiting(ctx context.Context, limit int) ([]Waiting, error) { panic("to come") }
