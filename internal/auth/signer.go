package auth

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// ErrPrivateKeyNeeded means that tokens are verified with a public key, so the private key is
// needed to sign one.
var ErrPrivateKeyNeeded = errors.New("tokens are verified with a public key: give the private one in PEM with --token-key")

// SignerConfig configures with which key, and for which issuer and audience, tokens are signed.
type SignerConfig struct {
	// KeyFile is the file that the APIs verify with. It is used if it has a secret.
	KeyFile string
	// PrivateKeyFile is a private key in PEM. It takes precedence over KeyFile.
	PrivateKeyFile string
	// Issuer and Audience become iss and aud if they are not empty.
	Issuer, Audience string
}

// Signer signs tokens, for the commands token and rush. It is safe for concurrent use.
type Signer struct {
	method jwt.SigningMethod
	key    any
	cfg    SignerConfig
}

// NewSigner reads the key. The error wraps ErrPrivateKeyNeeded if only a public key was given.
func NewSigner(cfg SignerConfig) (*Signer, error) {
	if cfg.PrivateKeyFile != "" {
		raw, err := os.ReadFile(cfg.PrivateKeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the private key: %w; give an RSA, P-256 or Ed25519 key in PEM", err)
		}
		private, err := parsePrivateKey(raw)
		if err != nil {
			return nil, fmt.Errorf("%s %w; give an RSA, P-256 or Ed25519 key in PEM", cfg.PrivateKeyFile, err)
		}
		method, err := methodOf(private)
		if err != nil {
			return nil, fmt.Errorf("%s holds %w", cfg.PrivateKeyFile, err)
		}
		return &Signer{method: method, key: private, cfg: cfg}, nil
	}
	if cfg.KeyFile == "" {
		return nil, ErrPrivateKeyNeeded
	}
	raw, err := os.ReadFile(cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the token key: %w; %s", err, whatIsRight)
	}
	if looksLikePEM(raw) {
		return nil, fmt.Errorf("%s is not a secret: %w", cfg.KeyFile, ErrPrivateKeyNeeded)
	}
	secret, err := secretOf(raw)
	if err != nil {
		return nil, fmt.Errorf("the token key in %s: %w; %s", cfg.KeyFile, err, whatIsRight)
	}
	return &Signer{method: jwt.SigningMethodHS256, key: secret, cfg: cfg}, nil
}

// Sign returns a token for the user with these roles that expires after ttl.
func (s *Signer) Sign(sub uuid.UUID, roles Roles, ttl time.Duration) (string, error) {
	now := time.Now()
	c := jwt.MapClaims{
		"sub":   sub.String(),
		"roles": roles.Names(),
		"iat":   now.Unix(),
		"exp":   now.Add(ttl).Unix(),
	}
	if s.cfg.Issuer != "" {
		c["iss"] = s.cfg.Issuer
	}
	if s.cfg.Audience != "" {
		c["aud"] = s.cfg.Audience
	}
	token, err := jwt.NewWithClaims(s.method, c).SignedString(s.key)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return token, nil
}
