// Package rush plays a rush against a running system, like a crowd of buyers, and then checks
// through the APIs whether the rules held.
//
// It uses the system only through its HTTP APIs: everything that it reports can be observed from
// outside.
package rush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Defaults of Config.
const (
	DefaultBuyers      = 100_000
	DefaultStock       = 100
	DefaultConnections = 1000
)

// settleAfter is how long, by contract, it may take until the unit of a grant that was not appended
// is free again; refused buyers click once more then.
const settleAfter = 15 * time.Second

// Tokens mints a bearer token for a user with one role.
type Tokens func(sub uuid.UUID, role string) (string, error)

// Config configures a rush.
type Config struct {
	Buyers      int      // number of buyers who click; 1 or more
	Stock       int      // units on sale; 1 or more
	Connections int      // open connections, shared out among CommandURLs; 1 or more
	Rate        float64  // clicks per second; 0: as fast as the connections allow
	CommandURLs []string // base URLs of the command APIs; the buyers are shared out among them
	QueryURL    string   // base URL of a query API
	Pay         float64  // share of the granted buyers who pay, 0 to 1; the others let their slots expire
	Payments    bool     // play on with payments, until every slot has ended
	GatewayURL  string   // where the payment gateway can be asked what it took; "": nowhere
	Tokens      Tokens   // mints admin's and buyers' tokens
	Progress    Progress // receives the progress; may be nil
	Log         *slog.Logger
	SettleAfter time.Duration // 0: 15 s
}

// ConfigError names a flag with an invalid value, and describes a valid one.
type ConfigError struct{ Flag, Message string }

func (e *ConfigError) Error() string { return "--" + e.Flag + " " + e.Message }

// Check returns what is wrong with the values, nil if nothing is.
func (c *Config) Check() *ConfigError {
	const mostUnits = 10_000_000
	switch {
	case c.Buyers < 1:
		return &ConfigError{"buyers", "must be 1 or more"}
	case c.Stock < 1 || c.Stock > mostUnits:
		return &ConfigError{"stock", "must be 1 to 10000000"}
	case c.Connections < 1:
		return &ConfigError{"connections", "must be 1 or more"}
	case c.Pay < 0 || c.Pay > 1:
		return &ConfigError{"pay", "must be a share from 0 to 1, as in 0.8"}
	case c.Rate < 0:
		return &ConfigError{"rate", "must be 0 (no limit) or more clicks a second"}
	}
	return nil
}

func (c *Config) complete() error {
	if err := c.Check(); err != nil {
		return err
	}
	if len(c.CommandURLs) == 0 || c.QueryURL == "" {
		return errors.New("a rush needs the URLs of a command API and a query API")
	}
	c.Connections = min(c.Connections, c.Buyers)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Progress == nil {
		c.Progress = silent{}
	}
	if c.SettleAfter == 0 {
		c.SettleAfter = settleAfter
	}
	return nil
}

// Run plays one rush and reads the outcome back. An error means that it could
// not be played or read to the end; rules that did not hold are in the Report.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	admin, err := cfg.Tokens(uuid.New(), "admin")
	if err != nil {
		return nil, fmt.Errorf("mint the admin's token: %w", err)
	}
	api := newAPI(cfg.CommandURLs[0], cfg.QueryURL, admin)

	buyers, err := mint(ctx, cfg.Buyers, cfg.Tokens)
	if err != nil {
		return nil, fmt.Errorf("mint the buyers' tokens: %w", err)
	}
	crowd, err := gather(ctx, cfg, buyers)
	if err != nil {
		return nil, err
	}
	defer crowd.leave()

	product, err := api.createProduct(ctx, fmt.Sprintf("Rush of %d on %d", cfg.Buyers, cfg.Stock), cfg.Stock, opensIn(cfg))
	if err != nil {
		return nil, fmt.Errorf("make the product: %w", err)
	}
	cfg.Log.Info("the product is made, waiting for its sale", "product", product.ID, "saleDate", product.SaleDate)
	crowd.aim(product.ID)
	if err := waitUntil(ctx, product.SaleDate); err != nil {
		return nil, err
	}

	everybody := make([]int, len(buyers))
	for i := range everybody {
		everybody[i] = i
	}
	first := crowd.click(ctx, "rush", everybody)
	attempts := first.attempts
	if err := ctx.Err(); err != nil {
		return nil, err
	}

	again, err := askAgain(ctx, cfg, api, crowd, product, attempts)
	if err != nil {
		return nil, err
	}
	attempts = append(attempts, again...)

	rep := summarize(cfg, product, first, attempts)
	if rep.Granted+rep.Refused == 0 {
		return rep, fmt.Errorf("no request was answered: %v", rep.ErrorKinds) // without traffic the rules hold trivially
	}
	if cfg.Payments {
		again, problems, err := payAndAbandon(ctx, cfg, api, crowd, product, attempts)
		if err != nil {
			return rep, fmt.Errorf("pay: %w", err)
		}
		attempts = append(attempts, again...)
		rep.Problems = problems
	}
	if err := readBack(ctx, api, product, attempts, rep); err != nil {
		return rep, fmt.Errorf("read the outcome back: %w", err)
	}
	if cfg.Payments {
		if err := readMoneyBack(ctx, cfg, api, product, rep); err != nil {
			return rep, fmt.Errorf("read the money back: %w", err)
		}
	}
	return rep, nil
}

// opensIn returns the time until the sale begins: the crowd must be ready before.
func opensIn(cfg Config) time.Duration {
	return 2*time.Second + time.Duration(cfg.Connections)*50*time.Microsecond
}

// askAgain makes refused buyers click once more if units are free that no buyer holds after
// everything has settled.
func askAgain(ctx context.Context, cfg Config, api *api, crowd *crowd, product product, attempts []attempt) ([]attempt, error) {
	granted := 0
	var without []int
	for _, a := range attempts {
		if a.granted() {
			granted++
		} else {
			without = append(without, a.buyer)
		}
	}
	if granted >= min(cfg.Stock, cfg.Buyers) || len(without) == 0 {
		return nil, nil
	}
	cfg.Log.Info("units were not granted, waiting for pending grants to settle", "free", cfg.Stock-granted, "wait", cfg.SettleAfter)
	if err := waitUntil(ctx, time.Now().Add(cfg.SettleAfter)); err != nil {
		return nil, err
	}
	return crowd.click(ctx, "once more", without).attempts, ctx.Err()
}

func waitUntil(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

type buyer struct {
	id    uuid.UUID
	token string
}

// mint makes the buyers and their tokens, on every core: a hundred thousand
// signatures take a moment.
func mint(ctx context.Context, n int, tokens Tokens) ([]buyer, error) {
	buyers := make([]buyer, n)
	workers := runtime.GOMAXPROCS(0)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n && ctx.Err() == nil; i += workers {
				id := uuid.New()
				token, err := tokens(id, "buyer")
				if err != nil {
					errs[w] = err
					return
				}
				buyers[i] = buyer{id, token}
			}
		})
	}
	wg.Wait()
	return buyers, errors.Join(append(errs, ctx.Err())...)
}
