package config

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

const (
	maxPool  = 10_000
	maxQueue = 1_000_000
	maxRate  = 1_000_000
	// maxConnections is more than a process can open.
	maxConnections = 10_000_000
	maxDrainDelay  = 10 * time.Minute
	// maxPartitions is more than any cluster supports well.
	maxPartitions = 10_000
)

// DatabaseURL returns the URL of the write side's Postgres, "" if none is given. It also checks the
// direct address, so that one start reports all errors.
func (r *Reader) DatabaseURL() string {
	if r.Has(DatabaseDirectURL) {
		r.postgres(DatabaseDirectURL)
	}
	return r.postgres(DatabaseURL)
}

// DatabaseDirectURL returns the URL of the write side's Postgres for uses that need their own
// server connections: --database-url unless --database-direct-url is given.
func (r *Reader) DatabaseDirectURL() string {
	if u := r.postgres(DatabaseDirectURL); u != "" {
		return u
	}
	return r.postgres(DatabaseURL)
}

// ReadDatabaseURL returns the URL of the read side's Postgres, the write side's if none is given.
func (r *Reader) ReadDatabaseURL() string {
	if u := r.postgres(ReadDatabaseURL); u != "" {
		return u
	}
	return r.postgres(DatabaseURL)
}

// textModes are pgx's modes of executing a query that send parameters as text without
// asking the server for their types. Arrays of ids cannot be sent so: every write would fail.
var textModes = map[string]bool{"exec": true, "simple_protocol": true}

func (r *Reader) postgres(s *Setting) string {
	text := r.URL(s, "postgres", "postgresql")
	if u, err := url.Parse(text); err == nil {
		if mode := u.Query().Get("default_query_exec_mode"); textModes[mode] {
			r.Refuse(s, "has default_query_exec_mode="+mode+", in which arrays cannot be sent: leave it out, a connection pooler is recognised without it")
		}
	}
	return text
}

// RedisURLs returns the nodes of Redis: one, or several of a cluster or of Sentinels. All but the
// first may be host:port alone, and then have the first one's scheme. topology.CheckURLs checks
// whether they can be combined.
func (r *Reader) RedisURLs() []string {
	list := r.List(RedisURL)
	for i := range list {
		if scheme, _, ok := strings.Cut(list[0], "://"); ok && i > 0 && !strings.Contains(list[i], "://") {
			list[i] = scheme + "://" + list[i]
		}
		if !validURL(list[i], []string{"redis", "rediss", "unix"}) {
			r.Refuse(RedisURL, "contains an entry that is not such a URL")
			return nil
		}
	}
	return list
}

// SchemaRegistryURL returns the URL of the schema registry; if it is "", values use single-object
// encoding.
func (r *Reader) SchemaRegistryURL() string { return r.URL(SchemaRegistryURL, "http", "https") }

// CommandURLs returns the URLs of the command APIs.
func (r *Reader) CommandURLs() []string {
	if urls := r.URLs(CommandURL, "http", "https"); len(urls) > 0 {
		return urls
	}
	return []string{"http://" + r.Addr(CommandAddr)}
}

// QueryURL returns the URL of the query API.
func (r *Reader) QueryURL() string {
	if u := r.URL(QueryURL, "http", "https"); u != "" {
		return u
	}
	return "http://" + r.Addr(QueryAddr)
}

// Auth returns how tokens are verified. One of --jwt-key and --jwks-url is needed. An identity
// provider's key set may be shared with other applications, so issuer and audience are needed with
// it, except in dev.
func (r *Reader) Auth() auth.Config {
	c := auth.Config{
		KeyFile:      r.String(JWTKey),
		JWKSURL:      r.URL(JWKSURL, "http", "https"),
		Issuer:       r.String(JWTIssuer),
		Audience:     r.String(JWTAudience),
		RolesClaim:   r.String(JWTRolesClaim),
		DefaultRoles: r.DefaultRoles(),
	}
	if c.JWKSURL == "" {
		if c.KeyFile == "" {
			r.Refuse(JWTKey, "is missing, and so is --"+JWKSURL.Name+" in its place")
		}
		return c
	}
	c.KeyFile = "" // --jwks-url takes its place
	if err := auth.CheckJWKSURL(c.JWKSURL); err != nil {
		r.Refuse(JWKSURL, err.Error())
		c.JWKSURL = ""
	}
	if r.cmd.Name != "dev" {
		for _, s := range []*Setting{JWTIssuer, JWTAudience} {
			if r.String(s) == "" {
				r.Refuse(s, "is missing: it is needed with --"+JWKSURL.Name)
			}
		}
	}
	return c
}

// DefaultRoles returns the roles of a token without the roles claim.
func (r *Reader) DefaultRoles() auth.Roles {
	var roles auth.Roles
	for _, name := range r.List(JWTDefaultRoles) {
		role := auth.RoleNamed(name)
		if role == 0 {
			r.Refuse(JWTDefaultRoles, fmt.Sprintf("has %q", name))
		}
		roles |= role
	}
	return roles
}

// Signing returns how the commands token and rush sign tokens.
func (r *Reader) Signing() auth.SignerConfig {
	c := auth.SignerConfig{
		KeyFile:        r.String(JWTKey),
		PrivateKeyFile: r.String(TokenKey),
		Issuer:         r.String(JWTIssuer),
		Audience:       r.String(JWTAudience),
	}
	if c.KeyFile == "" && c.PrivateKeyFile == "" {
		r.Refuse(JWTKey, "is missing, and so is --"+TokenKey.Name+" in its place")
	}
	return c
}

// SlotTTL returns how long a slot can be paid for.
func (r *Reader) SlotTTL() time.Duration { return r.Duration(SlotTTL, time.Millisecond) }

// SlotWarning returns how long before its deadline a slot's owner is warned.
func (r *Reader) SlotWarning() time.Duration { return r.Duration(SlotWarning, time.Millisecond) }

// BuyerRate returns how many requests per second one buyer may send, 0 for no limit.
func (r *Reader) BuyerRate() int { return r.Int(BuyerRate, 0, maxRate) }

// Limits returns the limits of an API's server. In dev the drain delay is 0 by default.
func (r *Reader) Limits() httpapi.Limits {
	l := httpapi.Limits{
		BuyerRate:                r.BuyerRate(),
		AnonymousRate:            r.Int(AnonymousRate, 0, maxRate),
		MaxConnections:           r.Int(MaxConnections, 0, maxConnections),
		MaxConnectionsPerAddress: r.Int(MaxConnectionsPerAddress, 0, maxConnections),
	}
	if r.cmd.Name != "dev" || r.cmd.IsSet(DrainDelay.Name) {
		if l.DrainDelay = r.Duration(DrainDelay, 0); l.DrainDelay > maxDrainDelay {
			r.Refuse(DrainDelay, "is more than "+maxDrainDelay.String())
		}
	}
	proxies, err := httpapi.ParseTrustedProxies(r.List(TrustedProxies))
	if err != nil {
		r.Refuse(TrustedProxies, "holds something else: "+err.Error())
	}
	l.TrustedProxies = proxies
	return l
}

// CORSOrigins returns the origins whose pages may call the APIs.
func (r *Reader) CORSOrigins() []string {
	origins := r.List(CORSOrigins)
	for _, o := range origins {
		u, err := url.Parse(o)
		if o != "*" && (err != nil || u.Scheme == "" || u.Host == "" || o != u.Scheme+"://"+u.Host) {
			r.Refuse(CORSOrigins, "holds "+o)
		}
	}
	return origins
}

// OTLPEndpoint returns the URL that spans are sent to, "" for none.
func (r *Reader) OTLPEndpoint() string { return r.URL(OTLPEndpoint, "http", "https") }

// Pool is the number of idle connections to keep and the maximum number of connections.
type Pool struct{ Kept, Max int }

// RedisPool returns the pool size for Redis.
func (r *Reader) RedisPool() Pool { return r.pool(RedisPool, RedisPoolMax) }

// DatabasePool returns the pool size for each Postgres.
func (r *Reader) DatabasePool() Pool { return r.pool(DatabasePool, DatabasePoolMax) }

func (r *Reader) pool(kept, most *Setting) Pool {
	p := Pool{Kept: r.Int(kept, 1, maxPool), Max: r.Int(most, 1, maxPool)}
	if p.Kept > p.Max {
		// If only the maximum is lowered, the number of idle connections follows.
		if r.cmd.IsSet(kept.Name) {
			r.Refuse(kept, "is more than --"+most.Name)
		}
		p.Kept = p.Max
	}
	return p
}

// AppendQueue returns how many appends may wait.
func (r *Reader) AppendQueue() int { return r.Int(AppendQueue, 1, maxQueue) }

// PaymentTimeout returns how long after its deadline a slot waits for a payment.
func (r *Reader) PaymentTimeout() time.Duration { return r.Duration(PaymentTimeout, time.Millisecond) }

// The kinds of payment gateway.
const (
	HTTPGateway   = "http"
	StripeGateway = "stripe"
)

// Gateway returns the kind of payment gateway.
func (r *Reader) Gateway() string {
	kind := r.String(Gateway)
	if kind != HTTPGateway && kind != StripeGateway {
		r.Refuse(Gateway, fmt.Sprintf("is %q", kind))
	}
	return kind
}

// GatewayURL returns the URL of the payment gateway, "" if none is given. User information is
// refused, because a URL is visible in process lists.
func (r *Reader) GatewayURL() string {
	text := r.URL(GatewayURL, "http", "https")
	if u, err := url.Parse(text); err == nil && u.User != nil {
		r.Refuse(GatewayURL, "contains user information; give the key by --gateway-key-file instead, and here")
		return ""
	}
	return text
}

// GatewayKey returns the key for the gateway of the HTTP contract, "" if none is given.
func (r *Reader) GatewayKey() string { return r.bearer(GatewayKey) }

// StripeKey returns Stripe's secret key, "" if none is given.
func (r *Reader) StripeKey() string { return r.bearer(StripeKey) }

// StripePublishableKey returns Stripe's key for the buyer's page, "" if none is given.
func (r *Reader) StripePublishableKey() string { return r.bearer(StripePublishableKey) }

// bearer returns a secret that is sent in a header. A problem does not repeat it.
func (r *Reader) bearer(s *Setting) string {
	key := r.String(s)
	if strings.ContainsFunc(key, func(c rune) bool { return c < '!' || c > '~' }) {
		r.Refuse(s, "has other characters than printable ASCII")
		return ""
	}
	return key
}

// ReturnOrigins returns the origins that a payment's returnUrl may have. If there are none,
// loopback addresses are accepted.
func (r *Reader) ReturnOrigins() []string {
	origins := r.List(ReturnOrigins)
	for _, o := range origins {
		u, err := url.Parse(o)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || o != u.Scheme+"://"+u.Host {
			r.Refuse(ReturnOrigins, "contains an entry that is not an origin")
		}
	}
	return origins
}

// CallbackURL returns the URL for the gateway's callbacks: the configured one, else the webhook's
// path at the command API's address.
func (r *Reader) CallbackURL() string {
	if u := r.URL(CallbackURL, "http", "https"); u != "" {
		return u
	}
	addr := r.Addr(CommandAddr)
	if strings.HasSuffix(addr, ":0") {
		r.Refuse(CallbackURL, "is missing, and does not follow from a --command-addr whose port is chosen at the start")
	}
	return "http://" + addr + WebhookPath
}

// WebhookPath is the command API's path for the gateway's callbacks.
const WebhookPath = "/v1/webhooks/payment"

// WebhookSecrets returns the secrets of the gateway's callbacks.
func (r *Reader) WebhookSecrets() []string {
	const shortest, longest = 24, 64 // bytes, by the Standard Webhooks convention
	secrets := r.List(WebhookSecrets)
	if r.String(Gateway) == StripeGateway { // Stripe's secrets are used as they are
		return secrets
	}
	for _, s := range secrets {
		encoded, ok := strings.CutPrefix(s, "whsec_")
		key, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(key) < shortest || len(key) > longest {
			r.Refuse(WebhookSecrets, "contains an entry that is not a webhook secret") // not repeated: it is one
		}
	}
	return secrets
}
