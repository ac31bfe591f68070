package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/status"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// fleet is the system as in production: every role a process, on a real Redis, Kafka and Postgres.
type fleet struct {
	t       *testing.T
	db      *pgxpool.Pool
	dbURL   string
	redis   *devservices.Redis
	brokers []string
	keyFile string
	users   *clients
	admin   *client
	more    []string // settings of this fleet

	commands   []*process
	relays     []*process
	projectors []*process
	worker     *process
	query      *process

	commandURLs []string
	queryURL    string
}

func startFleet(t *testing.T) *fleet {
	t.Helper()
	d := dbtest.Both(t)
	f := newFleet(t, d.Pool, d.URL)
	f.run()
	return f
}

// newFleet returns a fleet on a migrated database, with no process running yet.
func newFleet(t *testing.T, db *pgxpool.Pool, dbURL string, more ...string) *fleet {
	t.Helper()
	program(t)
	f := &fleet{t: t, db: db, dbURL: dbURL, more: more}
	f.redis = testkit.OwnRedis(t)
	f.brokers = testkit.OwnKafka(t).Brokers() // the topic's name is fixed: two systems cannot share one
	f.keyFile = filepath.Join(t.TempDir(), "jwt.key")
	require.NoError(t, os.WriteFile(f.keyFile, []byte(strings.Repeat("0123456789abcdef", 3)), 0o600))
	f.users = newClients(t, f.keyFile)
	f.admin = f.users.admin()
	return f
}

// run starts every role and waits until all are ready.
func (f *fleet) run() {
	f.t.Helper()
	for i := range 2 {
		addr := freeAddr(f.t)
		f.commandURLs = append(f.commandURLs, "http://"+addr)
		f.commands = append(f.commands, f.role("command-api", i, "DOPAMINE_COMMAND_ADDR="+addr))
		f.relays = append(f.relays, f.role("relay", i))
		f.projectors = append(f.projectors, f.role("projector", i))
	}
	f.worker = f.role("worker", 0)
	addr := freeAddr(f.t)
	f.queryURL = "http://" + addr
	f.query = f.role("query-api", 0, "DOPAMINE_QUERY_ADDR="+addr)
	for _, p := range f.all() {
		p.ready()
	}
}

// role starts a process, whose connections have its name.
func (f *fleet) role(name string, i int, env ...string) *process {
	f.t.Helper()
	own := fmt.Sprintf("%s-%d", name, i)
	return start(f.t, own, append(f.env(own), env...), name)
}

// env returns the settings that all processes share.
func (f *fleet) env(name string) []string {
	return append([]string{
		"DOPAMINE_DATABASE_URL=" + named(f.t, f.dbURL, name),
		"DOPAMINE_REDIS_URL=" + f.redis.URL(),
		"DOPAMINE_KAFKA_BROKERS=" + strings.Join(f.brokers, ","),
		"DOPAMINE_JWT_KEY=" + f.keyFile,
		"DOPAMINE_GATEWAY_URL=http://127.0.0.1:1", // no buyer pays in these tests
		"DOPAMINE_WEBHOOK_SECRETS=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
	}, f.more...)
}

// named adds an application name to the connections of a process.
func named(t *testing.T, dbURL, name string) string {
	t.Helper()
	u, err := url.Parse(dbURL)
	require.NoError(t, err)
	q := u.Query()
	q.Set("application_name", name)
	u.RawQuery = q.Encode()
	return u.String()
}

func freeAddr(t *testing.T) string {
	t.Helper()
	port, err := devservices.FreePort()
	require.NoError(t, err)
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

func (f *fleet) all() []*process {
	all := append([]*process{f.worker, f.query}, f.commands...)
	return append(append(all, f.relays...), f.projectors...)
}

// status returns the output of `dopamine status`.
func (f *fleet) status() (r status.Report) {
	f.t.Helper()
	exit, out, errs := call(f.t, f.env("status"), "status", "--json")
	require.Equal(f.t, 0, exit, errs)
	require.NoError(f.t, json.Unmarshal([]byte(out), &r), out)
	return r
}

// settled waits until everything that was appended is everywhere, and nothing
// is on its way at a gate.
func (f *fleet) settled() {
	f.t.Helper()
	f.settledWithin(60 * time.Second)
}

func (f *fleet) settledWithin(d time.Duration) {
	f.t.Helper()
	testkit.Eventually(f.t, d, "the fleet to settle", func() error {
		r := f.status()
		if len(r.Unreachable) > 0 || r.Relay == nil || r.Store == nil {
			return fmt.Errorf("not reached: %v", r.Unreachable)
		}
		if r.Relay.Lag != 0 {
			return fmt.Errorf("the relay is %d behind", r.Relay.Lag)
		}
		for _, p := range r.Projections {
			if p.Lag == nil || *p.Lag != 0 || p.Parked != 0 {
				return fmt.Errorf("projection %s: lag %v, %d parked", p.Name, p.Lag, p.Parked)
			}
		}
		for _, g := range r.Gates {
			if g.State == "open" && (g.Pending != 0 || g.Difference != "") {
				return fmt.Errorf("gate %s: %d pending, %s", g.Product, g.Pending, g.Difference)
			}
		}
		return nil
	})
}

// leader returns the leading relay.
func (f *fleet) leader() *process {
	f.t.Helper()
	var name string
	testkit.Eventually(f.t, 15*time.Second, "a relay to lead", func() error {
		return f.db.QueryRow(context.Background(), `
			SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE l.locktype = 'advisory' AND l.granted AND a.application_name LIKE 'relay-%' AND a.datname = current_database()`).Scan(&name)
	})
	for _, p := range f.relays {
		if p.name == name {
			return p
		}
	}
	f.t.Fatalf("%q leads, which is not a relay of this fleet", name)
	return nil
}

// rushReport is the part of `rush --json` that is used.
type rushReport struct {
	Product    string          `json:"productId"`
	Buyers     int             `json:"buyers"`
	Stock      int             `json:"stock"`
	Granted    int             `json:"granted"`
	Refused    int             `json:"refused"`
	Errors     int             `json:"errors"`
	ErrorKinds map[string]int  `json:"errorKinds"`
	Inversions int             `json:"inversions"`
	Rules      map[string]bool `json:"rules"`
	Broken     []string        `json:"broken"`
	LatencyMs  struct{ P50, P99, P999 float64 }
	PerSecond  float64 `json:"requestsPerSecond"`
}

// rush starts the program's own rush on both command APIs.
func (f *fleet) rush(args ...string) *process {
	f.t.Helper()
	return start(f.t, "rush", f.env("rush"), append([]string{"rush", "--json",
		"--command-url", strings.Join(f.commandURLs, ","), "--query-url", f.queryURL}, args...)...)
}

func report(p *process) (r rushReport) {
	p.t.Helper()
	require.NoError(p.t, json.Unmarshal([]byte(p.said("stdout")), &r), "%s", p.said("stdout"))
	p.t.Logf("rush: %d granted, %d refused, %d errors %v, %.0f requests/s, p50 %.1f ms, p99 %.1f ms",
		r.Granted, r.Refused, r.Errors, r.ErrorKinds, r.PerSecond, r.LatencyMs.P50, r.LatencyMs.P99)
	return r
}

// newest waits for a product of that stock that was made after a moment.
func (f *fleet) newest(stock int) (id string) {
	f.t.Helper()
	testkit.Eventually(f.t, 30*time.Second, "the rush's product", func() error {
		a := f.users.nobody().get(f.queryURL + "/v1/products?status=ON_SALE&size=100")
		if a.status != http.StatusOK {
			return errors.New(string(a.body))
		}
		for _, p := range a.object(f.t)["products"].([]any) {
			if p.(object)["totalStock"].(json.Number).String() == strconv.Itoa(stock) {
				id = p.(object)["id"].(string)
				return nil
			}
		}
		return errors.New("none yet")
	})
	return id
}

// claimed counts the units that slots of a product hold.
func (f *fleet) claimed(product string) (n int) {
	f.t.Helper()
	require.NoError(f.t, f.db.QueryRow(context.Background(), `SELECT count(*) FROM slot_claims WHERE product_id = $1`, product).Scan(&n))
	return n
}
