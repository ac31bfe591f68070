package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/status"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/faults/proxy"
)

const (
	pollInterval = 100 * time.Millisecond
	// slotTTL lets slots expire during a run.
	slotTTL, slotWarning = 8 * time.Second, 2 * time.Second
	webhookSecret        = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

// fleet is the system of one run: every role in separate processes, each with
// its own proxies to Postgres, Redis and the payment gateway.
type fleet struct {
	services *services
	dir      string
	thorough bool // callbacks of the gateway are lost
	// worstGateway: the simulator misbehaves in every way.
	worstGateway bool
	topic        string
	keyFile      string

	postgres    *devservices.Postgres // of this run, where the scenario needs one
	standby     *devservices.Postgres
	replication *proxy.Proxy            // between them
	redis       *devservices.Redis      // single
	redisGroup  *devservices.RedisGroup // or a group
	kafka       *devservices.Kafka
	kafkaGroup  *devservices.KafkaGroup
	brokers     []string
	clock       string // file with the offset of a server's clock
	ownRedis    bool
	smallDisk   string // where Postgres has a file system of its own
	registry    *slowRegistry

	database string // its name
	db       *pgxpool.Pool

	processes []*process
	links     map[string]*links // by process

	commandURLs []string
	queryURL    string
	gatewayURL  string

	// foreign reports whether a record of the topic is not one of the store's
	// present history; nil: all are.
	foreign func(headers map[string]string) bool
	// trimmed: records were deleted from the topic, which then lacks events.
	trimmed bool
	// orphaned: existing connections that were silenced stay silent.
	orphaned bool
}

// links are the proxies of a process.
type links struct {
	postgres, redis, gateway *proxy.Proxy // redis: nil for a group
}

func (l *links) all() []*proxy.Proxy {
	var all []*proxy.Proxy
	for _, p := range []*proxy.Proxy{l.postgres, l.redis, l.gateway} {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// postgresServer is the server that the run began with.
func (f *fleet) postgresServer() *devservices.Postgres {
	if f.postgres != nil {
		return f.postgres
	}
	return f.services.postgres
}

// startFleet starts everything for one run and returns when all are ready.
func startFleet(ctx context.Context, s *services, sc *scenario, dir string, thorough bool) (f *fleet, err error) {
	started := &fleet{services: s, dir: dir, thorough: thorough, worstGateway: sc.worstGateway, links: map[string]*links{}}
	f = started
	defer func() {
		if err != nil {
			started.stop(context.WithoutCancel(ctx))
		}
	}()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s.runs++
	f.database = fmt.Sprintf("run_%d_%d", os.Getpid(), s.runs)
	if err := f.startServices(ctx, sc); err != nil {
		return nil, err
	}
	f.keyFile = filepath.Join(dir, "jwt.key")
	if err := os.WriteFile(f.keyFile, []byte(jwtSecret), 0o600); err != nil {
		return nil, err
	}
	return f, f.startProcesses(ctx, sc)
}

func (f *fleet) startServices(ctx context.Context, sc *scenario) (err error) {
	s := f.services
	if sc.postgres != nil {
		if err = sc.postgres(ctx, f); err != nil {
			return err
		}
	} else if err = s.startPostgres(ctx); err != nil {
		return err
	}
	if _, err = s.newDatabase(ctx, f.postgresServer(), f.database); err != nil {
		return err
	}
	if f.db, err = pgxpool.New(ctx, databaseURL(f.postgresServer().URL(), f.database)); err != nil {
		return err
	}
	switch {
	case sc.redis != nil:
		if f.redisGroup, err = sc.redis(ctx); err != nil {
			return err
		}
	case sc.clockOf == "redis":
		if err = f.startRedisWithClock(ctx); err != nil {
			return err
		}
	default:
		if err = s.startRedis(ctx); err != nil {
			return err
		}
		f.redis = s.redis
		if err = resetRedis(ctx, f.redis); err != nil {
			return err
		}
	}
	if sc.kafka != nil {
		if f.brokers, err = sc.kafka(ctx, f); err != nil {
			return err
		}
	} else {
		if f.kafka, err = s.startKafka(ctx, sc.realKafka); err != nil {
			return err
		}
		f.brokers = f.kafka.Brokers()
	}
	f.topic = "faults-" + f.database
	if !s.has("--kafka-topic") {
		f.topic = kafka.Topic
		if err := deleteTopic(ctx, f.brokers, f.topic); err != nil {
			return err
		}
	}
	if sc.registry {
		f.registry, err = startRegistry()
	}
	return err
}

// has reports whether the program knows a flag.
func (s *services) has(flag string) bool {
	out, _ := exec.Command(s.binary, "relay", "--help").CombinedOutput()
	return strings.Contains(string(out), flag)
}

// roles of a fleet; the first of the relays to start leads.
var fleetRoles = []string{"gateway-sim-0", "command-api-0", "command-api-1", "query-api-0", "relay-0", "relay-1", "projector-0", "projector-1", "worker-0", "worker-1"}

func (f *fleet) startProcesses(ctx context.Context, sc *scenario) error {
	gateway, err := freeAddr()
	if err != nil {
		return err
	}
	f.gatewayURL = "http://" + gateway
	var addrs [2]string
	for i := range addrs {
		if addrs[i], err = freeAddr(); err != nil {
			return err
		}
		f.commandURLs = append(f.commandURLs, "http://"+addrs[i])
	}
	query, err := freeAddr()
	if err != nil {
		return err
	}
	f.queryURL = "http://" + query
	lost := "0"
	if f.thorough {
		lost = "0.1"
	}
	for _, name := range fleetRoles {
		role := name[:strings.LastIndex(name, "-")]
		if err := f.link(name); err != nil {
			return err
		}
		env, args := f.env(name), []string{role}
		switch role {
		case "command-api":
			i, _ := strconv.Atoi(name[strings.LastIndex(name, "-")+1:])
			env = append(env, "DOPAMINE_COMMAND_ADDR="+addrs[i])
		case "query-api":
			env = append(env, "DOPAMINE_QUERY_ADDR="+query)
		case "gateway-sim":
			args = append(args, "--addr", gateway, "--success-rate", "0.9", "--latency", "30ms", "--repeated", "0.2", "--reordered", "0.1", "--lost", lost)
			if sc.worstGateway {
				args = append(args, "--misbehave", "0.2", "--slow-latency", "1s")
			}
		}
		env = append(env, sc.env[role]...)
		p, err := startProcess(f.services.binary, f.dir, name, env, args...)
		if err != nil {
			return err
		}
		f.processes = append(f.processes, p)
	}
	for _, p := range f.processes {
		if err := p.ready(ctx); err != nil {
			return fmt.Errorf("%w; the end of its log:\n%s", err, p.tail(5))
		}
	}
	return nil
}

// link makes the proxies of a process.
func (f *fleet) link(name string) (err error) {
	l := &links{}
	f.links[name] = l
	if l.postgres, err = proxy.New(hostOf(f.postgresServer().URL())); err != nil {
		return err
	}
	if f.redis != nil {
		if l.redis, err = proxy.New(hostOf(f.redis.URL())); err != nil {
			return err
		}
	}
	l.gateway, err = proxy.New(hostOf(f.gatewayURL))
	return err
}

// env returns the settings of a process; one without proxies is connected
// directly.
func (f *fleet) env(name string) []string {
	pg, err := url.Parse(databaseURL(f.postgresServer().URL(), f.database))
	if err != nil {
		panic(err)
	}
	var redisURL string
	gateway := f.gatewayURL
	if f.redis != nil {
		redisURL = f.redis.URL()
	} else {
		redisURL = f.redisGroup.URL()
	}
	if l := f.links[name]; l != nil {
		pg.Host = l.postgres.Addr()
		gateway = "http://" + l.gateway.Addr()
		if l.redis != nil {
			redisURL = "redis://" + l.redis.Addr() + "/0"
		}
	} else if f.standby != nil && f.promoted() {
		pg.Host = hostOf(f.standby.URL())
	}
	q := pg.Query()
	q.Set("application_name", name)
	pg.RawQuery = q.Encode()
	env := []string{
		"DOPAMINE_DATABASE_URL=" + pg.String(), "DOPAMINE_REDIS_URL=" + redisURL, "DOPAMINE_KAFKA_BROKERS=" + strings.Join(f.brokers, ","),
		"DOPAMINE_KAFKA_TOPIC=" + f.topic, "DOPAMINE_KAFKA_GROUP=" + f.topic,
		"DOPAMINE_JWT_KEY=" + f.keyFile, "DOPAMINE_GATEWAY_URL=" + gateway, "DOPAMINE_WEBHOOK_SECRETS=" + webhookSecret,
		"DOPAMINE_SLOT_TTL=" + slotTTL.String(), "DOPAMINE_SLOT_WARNING=" + slotWarning.String(), "DOPAMINE_PAYMENT_TIMEOUT=20s",
		"DOPAMINE_DATABASE_POOL=2", "DOPAMINE_DATABASE_POOL_MAX=8", "DOPAMINE_REDIS_POOL=2", "DOPAMINE_REDIS_POOL_MAX=6",
		"DOPAMINE_DRAIN_DELAY=0s", "GOMAXPROCS=2",
	}
	if len(f.commandURLs) > 0 {
		env = append(env, "DOPAMINE_CALLBACK_URL="+f.commandURLs[0]+"/v1/webhooks/payment")
	}
	if f.registry != nil {
		env = append(env, "DOPAMINE_SCHEMA_REGISTRY_URL="+f.registry.url)
	}
	return env
}

func (f *fleet) promoted() bool {
	return f.db != nil && f.db.Config().ConnConfig.Port != 0 && hostOf(f.standby.URL()) == net.JoinHostPort(f.db.Config().ConnConfig.Host, strconv.Itoa(int(f.db.Config().ConnConfig.Port)))
}

// failOver connects everything to another Postgres server.
func (f *fleet) failOver(ctx context.Context, to *devservices.Postgres) error {
	for _, l := range f.links {
		l.postgres.Retarget(hostOf(to.URL()))
	}
	old := f.db
	var err error
	f.db, err = pgxpool.New(ctx, databaseURL(to.URL(), f.database))
	old.Close()
	return err
}

func freeAddr() (string, error) {
	port, err := devservices.FreePort()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), err
}

// process finds one by name.
func (f *fleet) process(name string) *process {
	for _, p := range f.processes {
		if p.name == name {
			return p
		}
	}
	panic("no process " + name)
}

// of lists the processes of a role.
func (f *fleet) of(role string) (all []*process) {
	for _, p := range f.processes {
		if p.role == role {
			all = append(all, p)
		}
	}
	return all
}

// leader returns the leading relay.
func (f *fleet) leader(ctx context.Context) (*process, error) {
	var name string
	err := f.db.QueryRow(ctx, `
		SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'advisory' AND l.granted AND a.application_name LIKE 'relay-%' AND a.datname = current_database() LIMIT 1`).Scan(&name)
	if err != nil {
		return nil, fmt.Errorf("find the leading relay: %w", err)
	}
	return f.process(name), nil
}

// proxies lists all links of one kind.
func (f *fleet) proxies(of func(*links) *proxy.Proxy) (all []*proxy.Proxy) {
	for _, name := range fleetRoles {
		if p := of(f.links[name]); p != nil {
			all = append(all, p)
		}
	}
	return all
}

// heal ends every fault of the network and lets every process run.
func (f *fleet) heal() {
	for _, l := range f.links {
		for _, p := range l.all() {
			if f.orphaned {
				continue // a process that does not recover automatically has not noticed
			}
			p.Heal()
		}
	}
	for _, p := range f.processes {
		_ = p.arm("")
		_ = p.signal(syscall.SIGCONT)
		p.release()
	}
}

// stop ends the run's processes and what it had of its own.
func (f *fleet) stop(ctx context.Context) {
	for _, p := range f.processes {
		p.stop()
	}
	for _, l := range f.links {
		for _, p := range l.all() {
			p.Close()
		}
	}
	if f.db != nil {
		f.db.Close()
	}
	if f.kafkaGroup == nil && f.topic != "" && len(f.brokers) > 0 {
		deleting, cancel := context.WithTimeout(ctx, 5*time.Second)
		_ = deleteTopic(deleting, f.brokers, f.topic)
		cancel()
	}
	if f.redisGroup != nil {
		_ = f.redisGroup.Stop(ctx)
	}
	if f.kafkaGroup != nil {
		_ = f.kafkaGroup.Stop(ctx)
	}
	if f.ownRedis && f.redis != nil {
		_ = f.redis.Stop(ctx)
	}
	if f.registry != nil {
		f.registry.stop()
	}
	if f.replication != nil {
		f.replication.Close()
	}
	for _, p := range []*devservices.Postgres{f.standby, f.postgres} {
		if p != nil {
			_ = p.Stop(ctx)
		}
	}
	if f.smallDisk != "" {
		_ = syscall.Unmount(f.smallDisk, syscall.MNT_DETACH)
	}
	if f.postgres == nil && f.services.postgres != nil {
		if conn, err := pgx.Connect(ctx, f.services.postgres.URL()); err == nil {
			_, _ = conn.Exec(ctx, "drop database if exists "+f.database+" with (force)")
			_ = conn.Close(ctx)
		}
	}
}

// settle waits until everything that was appended is everywhere and no grant is
// pending at a gate, as `dopamine status` reports it.
//
// While the sale goes on, what it keeps adding is no lag: then everything up to the
// moment of the call must be everywhere, and grants may be pending.
func (f *fleet) settle(ctx context.Context, timeout time.Duration, busy bool) (time.Duration, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var head int64
	if busy {
		if err := f.db.QueryRow(ctx, "SELECT coalesce(max(position), 0) FROM events").Scan(&head); err != nil {
			return 0, err
		}
	}
	err := poll(ctx, pollInterval, "the fleet to settle", func() error {
		r, err := f.status(ctx)
		if err != nil {
			return err
		}
		return settled(r, head)
	})
	return time.Since(began), err
}

// status returns what `dopamine status` reports.
func (f *fleet) status(ctx context.Context) (r status.Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	out, err := f.call(ctx, "status", "--json")
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(out), &r)
}

// reached reports a projection that has not applied everything up to a position.
func reached(all []status.Projection, position int64) error {
	for _, p := range all {
		if p.Position == nil || *p.Position < position || p.Parked != 0 {
			return fmt.Errorf("projection %s has not reached %d, or has %d events parked", p.Name, position, p.Parked)
		}
	}
	return nil
}

// settled reports what is not settled yet. With a head, only what lies at or below
// it counts.
func settled(r status.Report, head int64) error {
	if len(r.Unreachable) > 0 || r.Relay == nil || r.Store == nil {
		return fmt.Errorf("not reached: %v", r.Unreachable)
	}
	if head > 0 {
		if r.Relay.Position < head {
			return fmt.Errorf("the relay is at %d of %d", r.Relay.Position, head)
		}
		return reached(r.Projections, head)
	}
	if r.Relay.Lag != 0 {
		return fmt.Errorf("the relay is %d behind", r.Relay.Lag)
	}
	for _, p := range r.Projections {
		switch {
		case p.Lag == nil || *p.Lag != 0:
			return fmt.Errorf("projection %s lags", p.Name)
		case p.Parked != 0:
			return fmt.Errorf("projection %s: %d events are parked", p.Name, p.Parked)
		}
	}
	for _, g := range r.Gates {
		if g.State == "open" && (g.Pending != 0 || g.Difference != "") {
			return fmt.Errorf("gate %s: %d pending, %s", g.Product, g.Pending, g.Difference)
		}
	}
	return nil
}

var errNoTraffic = errors.New("nothing was granted: the run shows nothing")
