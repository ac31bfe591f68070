package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// nbfLeeway is by how much the issuer's clock may be ahead.
const nbfLeeway = 2 * time.Second

// maxToken is the maximum length of a token in bytes, longer than any useful one.
const maxToken = 16 << 10

// ErrToken is wrapped by every refusal of a token. The error's text is for logs; a client learns
// only that the token is not valid.
var ErrToken = errors.New("token refused")

// Config configures which tokens are accepted.
type Config struct {
	// KeyFile is a file with a public key in PEM or an HS256 secret.
	KeyFile string
	// JWKSURL is the address of a JSON Web Key Set, as an alternative to KeyFile.
	JWKSURL string
	// Issuer is the required value of iss; empty: any.
	Issuer string
	// Audience must be in aud; empty: any.
	Audience string
	// RolesClaim is the claim with the roles, with dots for nesting; default "roles".
	RolesClaim string
	// DefaultRoles are the roles of a token without that claim.
	DefaultRoles Roles
	// Now is the clock for exp and nbf; nil: time.Now.
	Now func() time.Time
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	cfg    Config
	lookup func(ctx context.Context, h header) (key, error)
	// plain is the last encoded header that had only the algorithm of a fixed key. Nearly all
	// tokens share it, so it is not decoded each time.
	plain atomic.Pointer[string]
	fixed bool
}

// New returns a verifier with the configured key. With a key set it fetches the set immediately and
// fails if that fails, with ErrKeySetUnavailable if another try may succeed; the end of ctx stops the
// refreshing of the set.
func New(ctx context.Context, cfg Config) (*Verifier, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.RolesClaim == "" {
		cfg.RolesClaim = defaultRolesClaim
	}
	v := &Verifier{cfg: cfg}
	switch {
	case cfg.KeyFile != "" && cfg.JWKSURL != "":
		return nil, errors.New("a key file and a key set are configured; configure only one")
	case cfg.JWKSURL != "":
		set, err := newKeySet(ctx, cfg.JWKSURL)
		if err != nil {
			return nil, err
		}
		v.lookup = set.key
	case cfg.KeyFile != "":
		k, err := readKey(cfg.KeyFile)
		if err != nil {
			return nil, err
		}
		v.fixed = true
		v.lookup = func(context.Context, header) (key, error) { return k, nil }
	default:
		return nil, errors.New("no key to verify tokens with; " + whatIsRight + ", or the URL of a key set")
	}
	return v, nil
}

type header struct {
	Alg  string `json:"alg"`
	KID  string `json:"kid"`
	Crit any    `json:"crit"`
}

// audience is a string or a list of strings (RFC 7519, 4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(a))
}

type claims struct {
	Sub   string         `json:"sub"`
	Roles jsontext.Value `json:"roles"`
	Exp   *float64       `json:"exp"`
	Nbf   *float64       `json:"nbf"`
	Iss   string         `json:"iss"`
	Aud   audience       `json:"aud"`
}

// encoding is strict, so that a signature has only one encoding.
var encoding = base64.RawURLEncoding.Strict()

// Verify returns the identity of the token, or an error that wraps ErrToken.
func (v *Verifier) Verify(ctx context.Context, token string) (Identity, error) {
	id, err := v.verify(ctx, token)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return id, nil
}

func (v *Verifier) verify(ctx context.Context, token string) (Identity, error) {
	if len(token) > maxToken {
		return Identity{}, refuse(ReasonMalformed, errors.New("longer than any token"))
	}
	head, rest, ok1 := strings.Cut(token, ".")
	body, sig, ok2 := strings.Cut(rest, ".")
	if !ok1 || !ok2 {
		return Identity{}, refuse(ReasonMalformed, errors.New("not three parts"))
	}
	k, err := v.keyFor(ctx, head)
	if err != nil {
		return Identity{}, err
	}
	// One buffer for the signature and then for the claims.
	buf := make([]byte, 0, encoding.DecodedLen(max(len(body), len(sig))))
	signature, err := encoding.AppendDecode(buf, []byte(sig))
	if err != nil {
		return Identity{}, refuse(ReasonMalformed, fmt.Errorf("decode the signature: %w", err))
	}
	if err := k.verify(token[:len(head)+1+len(body)], signature); err != nil {
		return Identity{}, refuse(ReasonSignature, err)
	}
	payload, err := encoding.AppendDecode(buf, []byte(body))
	if err != nil {
		return Identity{}, refuse(ReasonMalformed, fmt.Errorf("decode the claims: %w", err))
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return Identity{}, refuse(ReasonClaims, fmt.Errorf("read the claims: %w", err))
	}
	if v.cfg.RolesClaim != defaultRolesClaim {
		if c.Roles, err = claimAt(payload, v.cfg.RolesClaim); err != nil {
			return Identity{}, refuse(ReasonClaims, fmt.Errorf("read the claims: %w", err))
		}
	}
	return v.identity(&c)
}

func (v *Verifier) keyFor(ctx context.Context, head string) (key, error) {
	if v.fixed {
		if plain := v.plain.Load(); plain != nil && *plain == head {
			return v.lookup(ctx, header{})
		}
	}
	raw, err := encoding.DecodeString(head)
	if err != nil {
		return key{}, refuse(ReasonMalformed, fmt.Errorf("decode the header: %w", err))
	}
	var h header
	if err := json.Unmarshal(raw, &h); err != nil {
		return key{}, refuse(ReasonMalformed, fmt.Errorf("read the header: %w", err))
	}
	if h.Crit != nil { // RFC 7515, 4.1.11: extensions that must be understood and are not
		return key{}, refuse(ReasonAlgorithm, errors.New("the header has critical extensions"))
	}
	k, err := v.lookup(ctx, h)
	if err != nil {
		return key{}, refuse(ReasonKey, err)
	}
	if h.Alg != k.alg {
		return key{}, refuse(ReasonAlgorithm, fmt.Errorf("the algorithm is %q, the key's is %s", h.Alg, k.alg))
	}
	if v.fixed {
		head = strings.Clone(head)
		v.plain.Store(&head)
	}
	return k, nil
}

func (v *Verifier) identity(c *claims) (Identity, error) {
	now := v.cfg.Now()
	at := float64(now.UnixMilli()) / 1000
	switch {
	case c.Exp == nil:
		return Identity{}, refuse(ReasonClaims, errors.New("no exp"))
	case at >= *c.Exp:
		return Identity{}, refuse(ReasonExpired, errors.New("expired"))
	case c.Nbf != nil && at+nbfLeeway.Seconds() < *c.Nbf:
		return Identity{}, refuse(ReasonNotYetValid, errors.New("not valid yet"))
	case v.cfg.Issuer != "" && c.Iss != v.cfg.Issuer:
		return Identity{}, refuse(ReasonIssuer, errors.New("another issuer"))
	}
	if v.cfg.Audience != "" && !slices.Contains(c.Aud, v.cfg.Audience) {
		return Identity{}, refuse(ReasonAudience, errors.New("another audience"))
	}
	user, err := userID(c.Iss, c.Sub)
	if err != nil {
		return Identity{}, refuse(ReasonClaims, err)
	}
	roles, given, err := rolesIn(c.Roles)
	if err != nil {
		return Identity{}, refuse(ReasonClaims, err)
	}
	if !given {
		roles = v.cfg.DefaultRoles
	}
	return Identity{Sub: user, Roles: roles, Expires: moment(*c.Exp)}, nil
}

// moment converts a claim's time to the first millisecond at which Verify treats it as passed. A
// claim may be any number; times far in the future are clamped.
func moment(seconds float64) time.Time {
	const farOff = 1 << 40 // in seconds, about 35,000 years
	return time.UnixMilli(int64(math.Ceil(min(seconds, farOff) * 1000)))
}
