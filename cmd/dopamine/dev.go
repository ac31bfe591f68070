package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/query"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/gatewaysim"
)

func devCommand() *cli.Command {
	flags := append(settings(writeSide, readSide, redisSide, kafkaSide, topicName, groupName, schemaSide, topicSide, tokenSide, serverSide, queueSide, paymentSide, config.SimulationSettings, []*config.Setting{config.ReturnOrigins}, observed,
		[]*config.Setting{config.QueryAddr, config.TokenKey, config.WebhookSecrets, config.Data}), rushFlags()...)
	flags = append(flags,
		&cli.BoolFlag{Name: "rush", Usage: "run the rush on the system when it is ready"},
		&cli.BoolFlag{Name: "once", Usage: "with --rush: exit with the rush's status instead of staying up"})
	return &cli.Command{
		Name:   "dev",
		Usage:  "run everything in one process, and start the services that are not given",
		Flags:  flags,
		Action: dev,
	}
}

// dev runs the whole system in one process.
func dev(ctx context.Context, cmd *cli.Command) error {
	d := &devSystem{cmd: cmd, values: map[*config.Setting]string{}}
	r := config.From(cmd)
	if cmd.Bool("once") && !cmd.Bool("rush") {
		r.RefuseFlag("once", "needs --rush")
	}
	rushCfg := rushConfig(cmd, r)
	d.readSettings(ctx, r)
	p, err := newParts(ctx, cmd, r, cmd.Root().ErrWriter)
	if err != nil {
		return err
	}
	defer p.close()
	d.parts = p
	if r.String(config.JWKSURL) != "" {
		if d.verifier, err = p.openVerifier(ctx, r, nil); err != nil {
			return unlessStopped(ctx, err)
		}
	}
	if err := d.takeFolder(r.String(config.Data)); err != nil {
		return err
	}
	if err := d.keys(); err != nil {
		return err
	}
	if err := d.startServices(ctx); err != nil {
		return unlessStopped(ctx, err)
	}
	for _, s := range []*config.Setting{config.CommandAddr, config.QueryAddr} {
		if err := d.choosePort(s); err != nil {
			return err
		}
	}
	sim, err := d.startGateway()
	if err != nil {
		return err
	}
	d.give(config.CommandAddr, config.QueryAddr)
	r = config.From(cmd) // with the addresses of the started services
	if d.ownPostgres {
		if err := createDatabases(ctx, r.DatabaseURL()); err != nil {
			return unlessStopped(ctx, err)
		}
	}
	if err := migrate(ctx, r.DatabaseDirectURL(), directReadURL(r)); err != nil {
		return unlessStopped(ctx, err)
	}
	return d.run(ctx, r, sim, func(ctx context.Context) error {
		rushCfg.Tokens = tokensOf(signerOf(r))
		rushCfg.CommandURLs, rushCfg.QueryURL = []string{"http://" + d.values[config.CommandAddr]}, "http://"+d.values[config.QueryAddr]
		rushCfg.GatewayURL = r.GatewayURL()
		if err := r.Err(); err != nil {
			return err
		}
		return playRush(ctx, cmd, rushCfg)
	})
}

// devSystem is a dev during its start: what it started, and what it will write to dopamine.env.
type devSystem struct {
	*parts
	cmd    *cli.Command
	dir    string
	values map[*config.Setting]string
	// ownPostgres: the server was started by this process, so its database is created
	// by it too.
	ownPostgres bool
	pipeline    pipelineHealth
	verifier    *auth.Verifier // with a key set; nil: with a key file
}

// readSettings reads all settings once, so that one start reports all wrong ones before anything is
// started.
func (d *devSystem) readSettings(ctx context.Context, r *config.Reader) {
	r.DatabaseURL()
	r.DatabaseDirectURL()
	r.ReadDatabaseURL()
	redisOf(r)
	kafkaOf(r)
	registryOf(r)
	r.DatabasePool()
	r.RedisPool()
	r.AppendQueue()
	gatewaySettingsOf(r)
	r.ReturnOrigins()
	r.Simulation()
	r.URL(config.CallbackURL, "http", "https")
	r.PaymentTimeout()
	r.SlotTTL()
	r.SlotWarning()
	r.WebhookSecrets()
	r.Limits()
	r.DefaultRoles()
	r.CORSOrigins()
	r.Addr(config.CommandAddr)
	r.Addr(config.QueryAddr)
	ownKey := r.String(config.JWTKey) == "" && r.String(config.JWKSURL) == ""
	if !ownKey {
		verifierOf(ctx, r)
	}
	if r.String(config.TokenKey) != "" || d.cmd.Bool("rush") && !ownKey {
		signerOf(r)
	}
}

// takeFolder makes the data folder and keeps every other dev out of it.
func (d *devSystem) takeFolder(dir string) error {
	abs, release, err := devservices.OwnFolder(dir)
	switch {
	case errors.Is(err, devservices.ErrInUse):
		return fmt.Errorf("another dev runs on %s: stop it, or name another folder with --data", dir)
	case err != nil:
		return fmt.Errorf("data %w; name one that can be written with --data", err)
	}
	d.onClose(func(context.Context) error { release(); return nil })
	d.dir = abs
	return nil
}

// set sets a setting's value, for this process and for dopamine.env.
func (d *devSystem) set(s *config.Setting, value string) error {
	d.values[s] = value
	if err := d.cmd.Set(s.Name, value); err != nil {
		return fmt.Errorf("--%s: %w", s.Name, err)
	}
	return nil
}

// give copies settings that were given, or have a default, into dopamine.env.
func (d *devSystem) give(settings ...*config.Setting) {
	r := config.From(d.cmd)
	for _, s := range settings {
		d.values[s] = r.String(s)
	}
}

// keys creates the secrets that were not given.
func (d *devSystem) keys() error {
	r := config.From(d.cmd)
	if r.String(config.JWTKey) == "" && r.String(config.JWKSURL) == "" {
		file := filepath.Join(d.dir, "jwt.key")
		if err := secretFile(file, "", jwtSecretBytes); err != nil {
			return err
		}
		if err := d.set(config.JWTKey, file); err != nil {
			return err
		}
	}
	if r.String(config.WebhookSecrets) == "" {
		file := filepath.Join(d.dir, "webhook.secret")
		if err := secretFile(file, "whsec_", webhookSecretBytes); err != nil {
			return err
		}
		secret, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read a secret: %w", err)
		}
		if err := d.set(config.WebhookSecrets, strings.TrimSpace(string(secret))); err != nil {
			return err
		}
	}
	d.give(config.WebhookSecrets, config.JWTKey, config.JWKSURL, config.JWTIssuer, config.JWTAudience, config.TokenKey)
	return nil
}

// How long the secrets are that dev makes.
const (
	jwtSecretBytes     = 48
	webhookSecretBytes = 32
)

// secretFile makes a file with a random secret in base64, unless it is there.
func secretFile(name, prefix string, bytes int) error {
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	secret := make([]byte, bytes)
	rand.Read(secret) // never fails
	if err := os.WriteFile(name, []byte(prefix+base64.StdEncoding.EncodeToString(secret)+"\n"), 0o600); err != nil {
		return fmt.Errorf("write a secret: %w", err)
	}
	return nil
}

// startServices starts the services that were not given.
func (d *devSystem) startServices(ctx context.Context) error {
	r := config.From(d.cmd)
	say := func(what, kind string) { d.log.Info("using", "service", what, "kind", kind) }
	if r.DatabaseURL() == "" {
		pg, err := devservices.StartPostgres(ctx, devservices.PostgresOptions{Dir: filepath.Join(d.dir, "postgres"), Log: d.log})
		if err != nil {
			return fmt.Errorf("start Postgres: %w; or name one with --database-url", err)
		}
		d.onClose(pg.Stop)
		d.ownPostgres = true
		say("Postgres", pg.Kind())
		own, err := withDatabase(pg.URL(), "dopamine")
		if err != nil {
			return err
		}
		if err := d.set(config.DatabaseURL, own); err != nil {
			return err
		}
	} else {
		say("Postgres", "as given by --database-url")
	}
	if len(r.RedisURLs()) == 0 {
		redis, err := devservices.StartRedis(ctx, devservices.RedisOptions{Dir: filepath.Join(d.dir, "redis"), Log: d.log})
		if err != nil {
			return fmt.Errorf("start Redis: %w; or name one with --redis-url", err)
		}
		d.onClose(redis.Stop)
		say("Redis", redis.Kind())
		if err := d.set(config.RedisURL, redis.URL()); err != nil {
			return err
		}
	} else {
		say("Redis", "as given by --redis-url")
	}
	if len(r.KafkaBrokers()) == 0 {
		k, err := devservices.StartFakeKafka(ctx, devservices.KafkaOptions{Dir: filepath.Join(d.dir, "kafka"), Log: d.log})
		if err != nil {
			return fmt.Errorf("start Kafka in process: %w; or name brokers with --kafka-brokers", err)
		}
		d.onClose(k.Stop)
		say("Kafka", k.Kind())
		if err := d.set(config.KafkaBrokers, k.URL()); err != nil {
			return err
		}
	} else {
		say("Kafka", "as given by --kafka-brokers")
	}
	d.give(config.DatabaseURL, config.DatabaseDirectURL, config.ReadDatabaseURL, config.RedisURL, config.RedisCA, config.RedisKeyPrefix, config.KafkaBrokers, config.KafkaTopic, config.SchemaRegistryURL,
		config.KafkaSASL, config.KafkaUser, config.KafkaPassword, config.KafkaCA, config.KafkaCert, config.KafkaKey,
		config.SchemaRegistryCA, config.SchemaRegistryUser, config.SchemaRegistryPassword)
	if r.Bool(config.KafkaTLS) {
		d.values[config.KafkaTLS] = "true"
	}
	return nil
}

// choosePort replaces port 0 before listening: the gateway needs the callback's address.
func (d *devSystem) choosePort(s *config.Setting) error {
	host, port, err := net.SplitHostPort(config.From(d.cmd).Addr(s))
	if err != nil || port != "0" {
		return err
	}
	free, err := devservices.FreePort()
	if err != nil {
		return err
	}
	return d.set(s, net.JoinHostPort(host, strconv.Itoa(free)))
}

// startGateway starts the simulator if no payment gateway was given.
func (d *devSystem) startGateway() ([]service, error) {
	r := config.From(d.cmd)
	if r.GatewayURL() != "" || r.Gateway() == config.StripeGateway {
		d.log.Info("using", "service", "payment gateway", "kind", "as given by --gateway and --gateway-url")
		d.give(config.GatewayURL)
		return nil, nil
	}
	opts := simulatorOptions(d.parts, r, config.SimulatorAddr.Default, filepath.Join(d.dir, "gateway", "books.jsonl"))
	sim, err := gatewaysim.New(opts)
	if err != nil {
		return nil, err
	}
	if err := sim.Listen(); err != nil { // another dev may be running on this machine
		d.log.Info("the simulator takes another address", "because", err)
		opts.Addr = "127.0.0.1:0"
		if sim, err = gatewaysim.New(opts); err != nil {
			return nil, err
		}
		if err := sim.Listen(); err != nil {
			return nil, err
		}
	}
	d.log.Info("using", "service", "payment gateway", "kind", "simulator at "+sim.Addr().String())
	return []service{simService(d.parts, sim)}, d.set(config.GatewayURL, "http://"+sim.Addr().String())
}

func withDatabase(server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", fmt.Errorf("the URL of our own Postgres: %w", err)
	}
	u.Path = "/" + name
	return u.String(), nil
}

// run starts all processes of the system, reports them, and runs the rush if requested.
func (d *devSystem) run(ctx context.Context, r *config.Reader, sim []service, play func(context.Context) error) error {
	commandCfg, queryCfg := commandConfig(ctx, d.parts, r), queryServer(ctx, d.parts, r)
	if d.verifier != nil {
		commandCfg.Verifier, queryCfg.Verifier = d.verifier, d.verifier
	}
	kafka, registry := kafkaOf(r), registryOf(r)
	commandCfg.CORSOrigins = append(commandCfg.CORSOrigins, dropOrigins(queryCfg.Addr)...)
	commandCfg.Checks = optionalChecks(d.parts, redisServer{}, kafka.cluster, d.pipeline.reasons)
	queryCfg.Checks = optionalChecks(d.parts, redisOf(r), kafka.cluster, d.pipeline.reasons)
	if err := openCommandSide(ctx, d.parts, r); err != nil {
		return unlessStopped(ctx, err)
	}
	if err := d.openRead(ctx, r.ReadDatabaseURL(), r.DatabasePool()); err != nil {
		return unlessStopped(ctx, err)
	}
	if err := d.openDirect(ctx, r); err != nil {
		return err
	}
	d.openNotifier(ctx)
	commandAPI, err := newCommandAPI(d.parts, commandCfg)
	if err != nil {
		return err
	}
	queryAPI, err := query.New(query.Config{Server: queryCfg, ReadPool: d.readPool, WritePool: d.writePool, ReadProbe: d.readProbe, WriteProbe: d.probe, Topic: kafka.topic, Drop: dropOf(r, commandCfg.Addr)})
	if err != nil {
		return err
	}
	for s, api := range map[*config.Setting]httpAPI{config.CommandAddr: commandAPI, config.QueryAddr: queryAPI} {
		if err := api.Listen(); err != nil {
			return fmt.Errorf("%w; name another address with --%s", err, s.Name)
		}
		d.values[s] = api.Addr().String()
	}
	if err := checkTopic(ctx, d.parts, kafka); err != nil {
		return unlessStopped(ctx, err)
	}
	relay, projector := newRelay(d.parts, kafka, registry), newProjector(d.parts, kafka, registry)
	d.pipeline.set(relay.Health, projector.Health)
	if err := config.WriteEnvFile(d.dir, d.values); err != nil {
		return err
	}

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	ready := func() {
		fmt.Fprintf(d.cmd.Root().Writer, "ready: command API http://%s, query API http://%s, data in %s\n",
			d.values[config.CommandAddr], d.values[config.QueryAddr], d.dir)
		d.printHints()
		if !d.cmd.Bool("rush") {
			return
		}
		err := play(ctx)
		switch {
		case d.cmd.Bool("once"):
			stop(rushOver{err})
		case err != nil && ctx.Err() == nil:
			d.log.Error("the rush did not go as it should", "error", err)
		}
	}
	err = serve(ctx, shutdownLimitWith(d.drain), ready,
		[]service{apiService(d.parts, "command API", commandAPI), apiService(d.parts, "query API", queryAPI)},
		[]service{workerService(d.parts), {name: "relay", run: relay.Run}, {name: "projector", run: projector.Run}},
		sim)
	var over rushOver
	if errors.As(context.Cause(ctx), &over) {
		err = errors.Join(err, over.err)
	}
	return err
}

// hintTokenTTL is how long the token that dev prints is valid.
const hintTokenTTL = 12 * time.Hour

// printHints prints on stderr what to do next; stdout is for programs. Without a key to sign with
// there is no token to print.
func (d *devSystem) printHints() {
	hints := "dashboard: http://" + d.values[config.QueryAddr] + "/\n"
	if signer, err := auth.NewSigner(config.From(d.cmd).Signing()); err == nil {
		if token, err := signer.Sign(uuid.New(), auth.RoleNamed("admin"), hintTokenTTL); err == nil {
			hints += "admin token, valid for " + hintTokenTTL.String() + ":\n" + token + "\n"
		}
	}
	fmt.Fprint(d.cmd.Root().ErrWriter, hints+"more tokens: dopamine token --help; first sale by curl: README.md; stop with Ctrl-C\n")
}

// rushOver ends a dev that was there for one rush.
type rushOver struct{ err error }

func (rushOver) Error() string { return "the rush is over" }
