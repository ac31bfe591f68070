package config

import (
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/kafka"
)

// Setting is one flag with its environment variable.
type Setting struct {
	// Name is the flag's name, without leading dashes.
	Name string
	// Default is the value if none is given; empty: no value.
	Default string
	// Usage is the line in --help.
	Usage string
	// Right describes a right value; it ends the message about a wrong one.
	Right string
	// Secret marks a value that is or may contain a secret. Such a setting can also be read from a
	// file, with the flag and variable that have the suffix -file (_FILE).
	Secret bool
	// Bool marks a switch: --name or --name=false.
	Bool bool
}

// fileSuffix is the suffix of the flag that names the file with a secret setting.
const fileSuffix = "-file"

// file returns the setting that names the file with the value of a secret setting.
func (s *Setting) file() *Setting {
	return &Setting{Name: s.Name + fileSuffix, Usage: "file with the value of --" + s.Name,
		Right: "the name of a readable file with the value of --" + s.Name}
}

// The settings.
var (
	DatabaseURL = &Setting{Name: "database-url", Secret: true,
		Usage: "Postgres with the event store",
		Right: "a URL such as postgres://user:password@localhost:5432/dopamine"}
	DatabaseDirectURL = &Setting{Name: "database-direct-url", Secret: true,
		Usage: "the same Postgres without the connection pooler, for locks, LISTEN and migrations (default: the same as --database-url)",
		Right: "a URL such as postgres://user:password@localhost:5432/dopamine"}
	ReadDatabaseURL = &Setting{Name: "read-database-url", Secret: true,
		Usage: "Postgres with the read models (default: the same as --database-url)",
		Right: "a URL such as postgres://user:password@localhost:5432/dopamine_read"}
	RedisURL = &Setting{Name: "redis-url", Secret: true,
		Usage: "Redis with the gates; several, comma-separated: a cluster, or with ?master_name= its Sentinels",
		Right: "a URL such as redis://localhost:6379/0, or several of a cluster, or of Sentinels with ?master_name=, comma-separated"}
	RedisCA = &Setting{Name: "redis-ca",
		Usage: "file with the certificates, in PEM, that verify a rediss:// server (default: the system's)",
		Right: "the name of a file with certificates in PEM"}
	RedisKeyPrefix = &Setting{Name: "redis-key-prefix",
		Usage: "prefix of every key, so that installations can share a Redis (default: none)",
		Right: "text such as shop1: without spaces and braces"}
	KafkaBrokers = &Setting{Name: "kafka-brokers",
		Usage: "Kafka's brokers, comma-separated",
		Right: "host:port, as in localhost:9092, several comma-separated"}
	KafkaTopic = &Setting{Name: "kafka-topic", Default: kafka.Topic,
		Usage: "topic with the product events of this event store",
		Right: "1 to 249 letters, digits, dots, underscores and hyphens, as in " + kafka.Topic}
	KafkaGroup = &Setting{Name: "kafka-group", Default: kafka.Group,
		Usage: "consumer group of the projectors",
		Right: "1 to 249 letters, digits, dots, underscores and hyphens, as in " + kafka.Group}
	KafkaSASL = &Setting{Name: "kafka-sasl",
		Usage: "SASL mechanism of Kafka's brokers: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 (default: none)",
		Right: "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, with --kafka-user and --kafka-password"}
	KafkaUser = &Setting{Name: "kafka-user",
		Usage: "user for --kafka-sasl",
		Right: "the user that the brokers know, together with --kafka-sasl and --kafka-password"}
	KafkaPassword = &Setting{Name: "kafka-password", Secret: true,
		Usage: "password for --kafka-sasl",
		Right: "the password of --kafka-user, together with --kafka-sasl"}
	KafkaTLS = &Setting{Name: "kafka-tls", Bool: true,
		Usage: "connect to Kafka's brokers with TLS; implied by --kafka-ca and --kafka-cert"}
	KafkaCA = &Setting{Name: "kafka-ca",
		Usage: "file with the certificates in PEM that Kafka's brokers are verified with (default: the system's)",
		Right: "the name of a readable file with certificates in PEM"}
	KafkaCert = &Setting{Name: "kafka-cert",
		Usage: "file with the client certificate in PEM for Kafka's brokers",
		Right: "the name of a readable file with a certificate in PEM, together with --kafka-key"}
	KafkaKey = &Setting{Name: "kafka-key",
		Usage: "file with the private key in PEM of --kafka-cert",
		Right: "the name of a readable file with the private key in PEM, together with --kafka-cert"}
	SchemaRegistryCA = &Setting{Name: "schema-registry-ca",
		Usage: "file with the certificates in PEM that the schema registry is verified with (default: the system's)",
		Right: "the name of a readable file with certificates in PEM"}
	SchemaRegistryUser = &Setting{Name: "schema-registry-user",
		Usage: "user for the schema registry (default: that of --schema-registry-url, if any)",
		Right: "the user that the schema registry knows, together with --schema-registry-password"}
	SchemaRegistryPassword = &Setting{Name: "schema-registry-password", Secret: true,
		Usage: "password for the schema registry",
		Right: "the password, together with --schema-registry-user"}
	SchemaRegistryURL = &Setting{Name: "schema-registry-url", Secret: true,
		Usage: "schema registry (default: none, Avro single-object encoding)",
		Right: "a URL such as http://localhost:8081"}
	CommandAddr = &Setting{Name: "command-addr", Default: "127.0.0.1:8080",
		Usage: "address that the command API listens on",
		Right: "host:port, as in 127.0.0.1:8080"}
	QueryAddr = &Setting{Name: "query-addr", Default: "127.0.0.1:8081",
		Usage: "address that the query API listens on",
		Right: "host:port, as in 127.0.0.1:8081"}
	CommandURL = &Setting{Name: "command-url",
		Usage: "command APIs to call, comma-separated (default: the one at --command-addr)",
		Right: "a URL such as http://127.0.0.1:8080, several comma-separated"}
	QueryURL = &Setting{Name: "query-url",
		Usage: "query API to call (default: the one at --query-addr)",
		Right: "a URL such as http://127.0.0.1:8081"}
	JWTKey = &Setting{Name: "jwt-key",
		Usage: "file with the key that verifies tokens: a public key in PEM, else an HS256 secret",
		Right: "the name of a file with a public key in PEM (RSA, P-256 or Ed25519) or an HS256 secret of 32 or more raw bytes"}
	JWKSURL = &Setting{Name: "jwks-url",
		Usage: "JSON Web Key Set that verifies tokens, in place of --jwt-key",
		Right: "a URL such as https://login.example.com/.well-known/jwks.json"}
	JWTIssuer = &Setting{Name: "jwt-issuer",
		Usage: "what a token's iss must be (default: anything)"}
	JWTAudience = &Setting{Name: "jwt-audience",
		Usage: "what a token's aud must hold (default: anything)"}
	TokenKey = &Setting{Name: "token-key",
		Usage: "file with the private key in PEM that signs tokens, if --jwt-key is a public key",
		Right: "the name of a file with a private key in PEM (RSA, P-256 or Ed25519)"}
	SlotTTL = &Setting{Name: "slot-ttl", Default: "30m",
		Usage: "how long a slot may be paid for",
		Right: "a duration of at least 1ms, as in 30m"}
	WebhookSecrets = &Setting{Name: "webhook-secrets", Secret: true,
		Usage: "secrets with which the payment gateway signs its callbacks, comma-separated while one is rolled",
		Right: "whsec_ and 24 to 64 bytes in base64, several comma-separated"}
	GatewayURL = &Setting{Name: "gateway-url",
		Usage: "payment gateway",
		Right: "a URL such as https://payments.example.com/v1"}
	Gateway = &Setting{Name: "gateway", Default: "http",
		Usage: "kind of payment gateway: one with the HTTP contract, or Stripe",
		Right: "http or stripe"}
	GatewayKey = &Setting{Name: "gateway-key", Secret: true,
		Usage: "key sent to the payment gateway as Authorization: Bearer (default: none)",
		Right: "printable ASCII characters without spaces"}
	StripeKey = &Setting{Name: "stripe-key", Secret: true,
		Usage: "Stripe's secret key, with --gateway stripe",
		Right: "a secret or restricted key of Stripe, such as rk_live_..."}
	StripePublishableKey = &Setting{Name: "stripe-publishable-key",
		Usage: "Stripe's publishable key for the buyer's page, with --gateway stripe",
		Right: "a publishable key of Stripe, such as pk_live_..."}
	ReturnOrigins = &Setting{Name: "return-origins",
		Usage: "origins that a payment's returnUrl may have, comma-separated (default: loopback addresses)",
		Right: "scheme://host[:port], as in https://shop.example.com, several comma-separated"}
	CallbackURL = &Setting{Name: "callback-url",
		Usage: "URL for the payment gateway's callbacks (default: http://<command-addr>/v1/webhooks/payment)",
		Right: "a URL such as https://shop.example.com/v1/webhooks/payment"}
	PaymentTimeout = &Setting{Name: "payment-timeout", Default: "5m",
		Usage: "how long past its deadline a slot waits for a pending payment",
		Right: "a duration of at least 1ms, as in 5m"}
	SlotWarning = &Setting{Name: "slot-warning", Default: "5m",
		Usage: "how long before its end a slot's owner is warned",
		Right: "a duration of at least 1ms, as in 5m"}
	BuyerRate = &Setting{Name: "buyer-rate", Default: "50",
		Usage: "requests per second that one buyer may send to one node, in bursts of twice as many (0: no limit)",
		Right: "a whole number from 0 to 1000000"}
	AnonymousRate = &Setting{Name: "anonymous-rate", Default: "0",
		Usage: "requests per second without a token that one client address may send to one node, in bursts of twice as many (0: no limit; needs --trusted-proxies behind a proxy)",
		Right: "a whole number from 0 to 1000000"}
	TrustedProxies = &Setting{Name: "trusted-proxies",
		Usage: "addresses of proxies whose X-Forwarded-For names the client, comma-separated",
		Right: "IP addresses or CIDR blocks, as in 10.0.0.0/8, several comma-separated"}
	MaxConnections = &Setting{Name: "max-connections", Default: "20000",
		Usage: "open connections of one API at most (0: no limit)",
		Right: "a whole number from 0 to 10000000"}
	MaxConnectionsPerAddress = &Setting{Name: "max-connections-per-address", Default: "0",
		Usage: "open connections of one API from one client address at most; those of --trusted-proxies do not count (0: no limit)",
		Right: "a whole number from 0 to 10000000"}
	DrainDelay = &Setting{Name: "drain-delay", Default: "5s",
		Usage: "how long after SIGTERM requests are still accepted while /health/ready is 503 (dev: 0)",
		Right: "a duration from 0s to 10m, as in 5s"}
	StartupTimeout = &Setting{Name: "startup-timeout", Default: "60s",
		Usage: "how long a process that starts waits for Postgres and Redis",
		Right: "a duration from 0s, as in 60s"}
	JWTRolesClaim = &Setting{Name: "jwt-roles-claim", Default: "roles",
		Usage: "claim of a token that holds its roles, dots for nesting",
		Right: "the name of a claim, as in roles or realm_access.roles"}
	JWTDefaultRoles = &Setting{Name: "jwt-default-roles",
		Usage: "roles of a token without that claim, comma-separated (default: none)",
		Right: auth.RolesUsage()}
	CORSOrigins = &Setting{Name: "cors-origins",
		Usage: "origins whose pages may call the APIs, comma-separated",
		Right: "scheme://host[:port], as in https://shop.example.com, several comma-separated, or * for any"}
	Data = &Setting{Name: "data", Default: "./.dopamine",
		Usage: "data folder of dev, from whose dopamine.env settings are taken that are not given",
		Right: "the data folder of a running or earlier dev"}
	LogFormat = &Setting{Name: "log-format",
		Usage: "json or text (default: text at a terminal, else json)",
		Right: "json or text"}
	LogLevel = &Setting{Name: "log-level", Default: "info",
		Usage: "debug, info, warn or error",
		Right: "debug, info, warn or error"}
	OTLPEndpoint = &Setting{Name: "otlp-endpoint",
		Usage: "OpenTelemetry collector for OTLP over HTTP (default: none)",
		Right: "a URL such as http://localhost:4318"}
	KafkaPartitions = &Setting{Name: "kafka-partitions", Default: "12",
		Usage: "partitions of the topic; the relay creates it with them and refuses a topic with another number",
		Right: "a whole number from 1 to 10000"}
	KafkaRetention = &Setting{Name: "kafka-retention", Default: "forever",
		Usage: "how long the topic keeps its records; the relay creates it so and reports a topic that keeps them for less",
		Right: "a duration of at least 1s, as in 8760h, or forever"}
	RedisPool = &Setting{Name: "redis-pool", Default: "10",
		Usage: "connections to Redis that are kept open",
		Right: "a whole number from 1 to 10000, at most that of --redis-pool-max"}
	RedisPoolMax = &Setting{Name: "redis-pool-max", Default: "20",
		Usage: "connections to Redis at most",
		Right: "a whole number from 1 to 10000"}
	DatabasePool = &Setting{Name: "database-pool", Default: "10",
		Usage: "connections to each Postgres that are kept open",
		Right: "a whole number from 1 to 10000, at most that of --database-pool-max"}
	DatabasePoolMax = &Setting{Name: "database-pool-max", Default: "20",
		Usage: "connections to each Postgres at most",
		Right: "a whole number from 1 to 10000"}
	MetricsAddr = &Setting{Name: "metrics-addr",
		Usage: "address that serves /health/live, /health/ready and /metrics; an API then serves no /metrics at its main address (default: none)",
		Right: "host:port, as in 127.0.0.1:9100"}
	// Settings of the payment gateway's simulator. By default it simulates failures.
	SimulatorAddr = &Setting{Name: "addr", Default: "127.0.0.1:8090",
		Usage: "address that the simulator listens on",
		Right: "host:port, as in 127.0.0.1:8090"}
	SuccessRate = &Setting{Name: "success-rate", Default: "0.9",
		Usage: "share of payments that succeed, 0 to 1",
		Right: rightShare}
	RefusedRate = &Setting{Name: "refused", Default: "0",
		Usage: "share of payments that are refused at once, 0 to 1",
		Right: rightShare}
	Latency = &Setting{Name: "latency", Default: "200ms",
		Usage: "time from a payment's start to its outcome",
		Right: "a duration, as in 200ms"}
	LostRate = &Setting{Name: "lost", Default: "0.1",
		Usage: "share of callbacks that are never sent, 0 to 1",
		Right: rightShare}
	RepeatedRate = &Setting{Name: "repeated", Default: "0.2",
		Usage: "share of callbacks that are sent more than once, 0 to 1",
		Right: rightShare}
	ReorderedRate = &Setting{Name: "reordered", Default: "0.2",
		Usage: "share of callbacks that others overtake, 0 to 1",
		Right: rightShare}
	Misbehave = &Setting{Name: "misbehave", Default: "0",
		Usage: "least share of every kind of misbehaviour, 0 to 1",
		Right: rightShare}
	ActionRate = &Setting{Name: "action-rate", Default: "0",
		Usage: "share of payments that the buyer has to confirm on a page, 0 to 1",
		Right: rightShare}
	SlowRate = &Setting{Name: "slow-rate", Default: "0",
		Usage: "share of responses that are slow, 0 to 1",
		Right: rightShare}
	SlowLatency = &Setting{Name: "slow-latency", Default: "3s",
		Usage: "time that a slow response takes",
		Right: "a duration, as in 3s"}
	LostResponses = &Setting{Name: "lost-responses", Default: "0",
		Usage: "share of POSTs that take effect and whose connection then breaks, 0 to 1",
		Right: rightShare}
	RepeatRejected = &Setting{Name: "repeat-rejected", Default: "0",
		Usage: "share of repeated POSTs that meet a 4xx, 0 to 1",
		Right: rightShare}
	LowerCase = &Setting{Name: "lower-case", Default: "0",
		Usage: "share of payments that are reported with their currency in lower case, 0 to 1",
		Right: rightShare}
	Duplicated = &Setting{Name: "duplicated", Default: "0",
		Usage: "share of successful payments that are charged twice, 0 to 1",
		Right: rightShare}
	Disputed = &Setting{Name: "disputed", Default: "0",
		Usage: "share of successful payments that are disputed, 0 to 1",
		Right: rightShare}
	DisputesLost = &Setting{Name: "disputes-lost", Default: "0.5",
		Usage: "share of disputes that the shop loses, 0 to 1",
		Right: rightShare}
	RefundsPending = &Setting{Name: "refunds-pending", Default: "0",
		Usage: "share of refunds that are pending at first, 0 to 1",
		Right: rightShare}
	RefundsFailed = &Setting{Name: "refunds-failed", Default: "0",
		Usage: "share of refunds that fail after they were accepted, 0 to 1",
		Right: rightShare}
	CancelRefused = &Setting{Name: "cancel-refused", Default: "0",
		Usage: "share of cancellations that are refused, 0 to 1",
		Right: rightShare}
	Seed = &Setting{Name: "seed", Default: "0",
		Usage: "seed of chance (0: another one each time)",
		Right: "a whole number from 0 on"}
	AppendQueue = &Setting{Name: "append-queue", Default: "4096",
		Usage: "entries of the append queue: acquire requests wait for one, other commands get 503",
		Right: "a whole number from 1 to 1000000"}
)

const rightShare = "a number from 0 to 1, as in 0.2"

// ofProcesses are the settings that the long-lived processes share in one environment. Each command
// accepts those that it does not use (HiddenSharedFlags). The settings of gateway-sim alone are not in
// it.
var ofProcesses = []*Setting{
	DatabaseURL, DatabaseDirectURL, ReadDatabaseURL, DatabasePool, DatabasePoolMax, RedisURL, RedisCA, RedisKeyPrefix, RedisPool, RedisPoolMax,
	KafkaBrokers, KafkaTopic, KafkaGroup, KafkaSASL, KafkaUser, KafkaPassword, KafkaTLS, KafkaCA, KafkaCert, KafkaKey,
	KafkaPartitions, KafkaRetention, SchemaRegistryURL, SchemaRegistryCA, SchemaRegistryUser, SchemaRegistryPassword, CommandAddr, QueryAddr, MetricsAddr,
	JWTKey, JWKSURL, JWTIssuer, JWTAudience, JWTRolesClaim, JWTDefaultRoles, BuyerRate, AnonymousRate, TrustedProxies,
	MaxConnections, MaxConnectionsPerAddress, DrainDelay, StartupTimeout, CORSOrigins, AppendQueue,
	WebhookSecrets, Gateway, GatewayURL, GatewayKey, StripeKey, StripePublishableKey, ReturnOrigins, CallbackURL, PaymentTimeout, SlotTTL, SlotWarning, LogFormat, LogLevel, OTLPEndpoint,
}

// HiddenSharedFlags returns, hidden, the flags of the long-lived processes that are not in own, so
// that one list of flags can be given to every command, as one environment can.
func HiddenSharedFlags(own []cli.Flag) []cli.Flag {
	var flags []cli.Flag
	for _, s := range withFiles(ofProcesses) {
		if !slices.ContainsFunc(own, func(f cli.Flag) bool { return slices.Contains(f.Names(), s.Name) }) {
			if s.Bool {
				flags = append(flags, &cli.BoolFlag{Name: s.Name, Usage: s.Usage, Hidden: true})
				continue
			}
			flags = append(flags, &cli.StringFlag{Name: s.Name, Usage: s.Usage, Hidden: true})
		}
	}
	return flags
}

// withFiles adds, after each secret setting, the setting that names its file.
func withFiles(settings []*Setting) []*Setting {
	var all []*Setting
	for _, s := range settings {
		all = append(all, s)
		if s.Secret {
			all = append(all, s.file())
		}
	}
	return all
}

// variablePrefix is the prefix of every variable.
const variablePrefix = "DOPAMINE_"

// Variable returns the environment variable of the setting.
func (s *Setting) Variable() string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
}

// Flags returns the flags of a command that uses these settings.
func Flags(settings ...*Setting) []cli.Flag {
	var flags []cli.Flag
	for _, s := range withFiles(settings) {
		if s.Bool {
			flags = append(flags, &cli.BoolFlag{Name: s.Name, Usage: s.Usage, Sources: cli.NewValueSourceChain(variable(s.Variable()))})
			continue
		}
		flags = append(flags, &cli.StringFlag{
			Name:    s.Name,
			Usage:   s.Usage,
			Value:   s.Default,
			Sources: cli.NewValueSourceChain(variable(s.Variable())),
		})
	}
	return flags
}

// variable is an environment variable that counts as absent if it is empty.
type variable string

func (v variable) Lookup() (string, bool) {
	value := os.Getenv(string(v))
	return value, value != ""
}

func (v variable) String() string   { return "environment variable " + string(v) }
func (v variable) GoString() string { return string(v) }

// IsFromEnv and Key make --help show the variable.
func (v variable) IsFromEnv() bool { return true }

// Key returns the variable's name.
func (v variable) Key() string { return string(v) }
