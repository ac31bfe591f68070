package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"os"
	"strings"
	"sync"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// minSecret is the shortest HS256 secret in bytes: the length of its hash (RFC 7518, 3.2).
	minSecret = 32
	// minRSABits is the minimum key size for RS256 (RFC 7518, 3.3).
	minRSABits = 2048
)

// key is a verification key with the only algorithm that its type allows.
type key struct {
	alg    string
	verify func(signed string, signature []byte) error
}

var errSignature = errors.New("the signature does not fit")

// hmacState is a hash that has processed the secret already, with a buffer. Starting a new HMAC for
// every request would hash two more blocks and allocate.
type hmacState struct {
	mac    hash.Hash
	signed []byte
	sum    []byte
}

func secretKey(secret []byte) key {
	pool := &sync.Pool{New: func() any { return &hmacState{mac: hmac.New(sha256.New, secret)} }}
	return key{alg: jwt.SigningMethodHS256.Alg(), verify: func(signed string, signature []byte) error {
		s := pool.Get().(*hmacState)
		defer pool.Put(s)
		s.mac.Reset()
		s.signed = append(s.signed[:0], signed...)
		s.mac.Write(s.signed)
		s.sum = s.mac.Sum(s.sum[:0])
		if !hmac.Equal(s.sum, signature) {
			return errSignature
		}
		return nil
	}}
}

// publicKey accepts the key types for which there are signing methods.
func publicKey(k any) (key, error) {
	method, err := methodOf(k)
	if err != nil {
		return key{}, err
	}
	return key{alg: method.Alg(), verify: func(signed string, signature []byte) error {
		return method.Verify(signed, signature, k)
	}}, nil
}

// methodOf returns the algorithm of a public or private key.
func methodOf(k any) (jwt.SigningMethod, error) {
	switch k := k.(type) {
	case *rsa.PrivateKey:
		return methodOf(&k.PublicKey)
	case *ecdsa.PrivateKey:
		return methodOf(&k.PublicKey)
	case ed25519.PrivateKey, ed25519.PublicKey:
		return jwt.SigningMethodEdDSA, nil
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits {
			return nil, fmt.Errorf("an RSA key of %d bits: %d or more are needed", bits, minRSABits)
		}
		return jwt.SigningMethodRS256, nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, fmt.Errorf("an EC key on %s: P-256 is needed", k.Curve.Params().Name)
		}
		return jwt.SigningMethodES256, nil
	default:
		return nil, fmt.Errorf("a key of the kind %T: RSA, P-256 or Ed25519 is needed", k)
	}
}

// whatIsRight is the end of the message about a key file that cannot be used.
const whatIsRight = "give a public key in PEM (RSA, P-256 or Ed25519), or an HS256 secret of 32 or more raw bytes"

// readKey reads a file with a public key in PEM or an HS256 secret.
func readKey(file string) (key, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return key{}, fmt.Errorf("read the token key: %w; %s", err, whatIsRight)
	}
	k, err := parseKey(raw)
	if err != nil {
		return key{}, fmt.Errorf("the token key in %s: %w; %s", file, err, whatIsRight)
	}
	return k, nil
}

func parseKey(raw []byte) (key, error) {
	if !looksLikePEM(raw) {
		secret, err := secretOf(raw)
		if err != nil {
			return key{}, err
		}
		return secretKey(secret), nil
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return key{}, errNotPEM
	}
	var public any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		public, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		public, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		return key{}, fmt.Errorf("holds a PEM block %q", block.Type)
	}
	if err != nil {
		return key{}, fmt.Errorf("holds a public key that cannot be read: %w", err)
	}
	return publicKey(public)
}

// parsePrivateKey reads a private key in PEM: PKCS 8, PKCS 1 or SEC 1.
func parsePrivateKey(raw []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		var private any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			private, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			private, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			private, err = x509.ParseECPrivateKey(block.Bytes)
		default: // "EC PARAMETERS" comes before the key in what openssl writes
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("holds a private key that cannot be read: %w", err)
		}
		if signer, ok := private.(crypto.Signer); ok {
			return signer, nil
		}
	}
	return nil, errors.New("holds no private key")
}

// looksLikePEM is checked before parsing, so that a damaged public key is never used as a secret.
func looksLikePEM(raw []byte) bool {
	return strings.Contains(string(raw), "-----BEGIN ")
}
