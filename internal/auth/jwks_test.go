package auth_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwks is an issuer's key set that can be changed.
type jwks struct {
	mu      sync.Mutex
	keys    []map[string]any
	fetched atomic.Int64
}

func (j *jwks) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	j.fetched.Add(1)
	j.mu.Lock()
	defer j.mu.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": j.keys})
}

func (j *jwks) add(key map[string]any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.keys = append(j.keys, key)
}

func rsaJWK(kid string) map[string]any {
	return map[string]any{"kty": "RSA", "kid": kid, "n": b64(rsaKey.N.Bytes()), "e": b64(big.NewInt(int64(rsaKey.E)).Bytes())}
}

func edJWK(kid string) map[string]any {
	return map[string]any{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": b64(edKey.Public().(ed25519.PublicKey))}
}

func signKID(t *testing.T, method jwt.SigningMethod, key any, kid string) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims())
	if kid != "" {
		token.Header["kid"] = kid
	}
	signed, err := token.SignedString(key)
	require.NoError(t, err)
	return signed
}

// verifier serves the set and returns a verifier that reads it, with its context.
func (s *jwks) verifier(t testing.TB) (context.Context, *auth.Verifier) {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	v, err := auth.New(ctx, auth.Config{JWKSURL: server.URL})
	require.NoError(t, err)
	return ctx, v
}

func TestJWKS_Verify(t *testing.T) {
	set := &jwks{}
	set.add(rsaJWK("r"))
	set.add(edJWK("e"))
	set.add(map[string]any{"kty": "oct", "kid": "o", "k": b64([]byte(secret))})
	ctx, v := set.verifier(t)

	verify := func(token string) error {
		_, err := v.Verify(ctx, token)
		return err
	}
	require.NoError(t, verify(signKID(t, jwt.SigningMethodRS256, rsaKey, "r")))
	require.NoError(t, verify(signKID(t, jwt.SigningMethodEdDSA, edKey, "e")))
	require.NoError(t, verify(signKID(t, jwt.SigningMethodRS256, rsaKey, "")), "the only RSA key of the set")
	for name, token := range map[string]string{
		"a key of the wrong kind":  signKID(t, jwt.SigningMethodRS256, rsaKey, "e"),
		"another algorithm":        signKID(t, jwt.SigningMethodRS512, rsaKey, "r"),
		"a secret in a public set": signKID(t, jwt.SigningMethodHS256, []byte(secret), "o"),
		"a secret without key id":  signKID(t, jwt.SigningMethodHS256, []byte(secret), ""),
		"the modulus as a secret":  signKID(t, jwt.SigningMethodHS256, rsaKey.N.Bytes(), "r"),
		"no key of this kind":      signKID(t, jwt.SigningMethodES256, ecKey, ""),
		"the signature of another": signKID(t, jwt.SigningMethodEdDSA, otherEd, "e"),
		"unknown key id (fetches)": signKID(t, jwt.SigningMethodEdDSA, edKey, "x"),
	} {
		require.ErrorIs(t, verify(token), auth.ErrToken, name)
	}
}

func TestJWKS_FetchesNewKeysAtALimitedRate(t *testing.T) {
	set := &jwks{}
	set.add(rsaJWK("r"))
	ctx, v := set.verifier(t)
	before := set.fetched.Load()

	set.add(edJWK("new"))
	_, err := v.Verify(ctx, signKID(t, jwt.SigningMethodEdDSA, edKey, "new"))
	require.NoError(t, err, "a key that was added since is fetched")
	require.Equal(t, before+1, set.fetched.Load())

	for range 20 {
		_, err = v.Verify(ctx, signKID(t, jwt.SigningMethodEdDSA, edKey, "invented"))
		require.ErrorIs(t, err, auth.ErrToken)
	}
	require.Equal(t, before+1, set.fetched.Load(), "invented key ids became requests to the issuer")
}

func TestJWKS_Unavailable(t *testing.T) {
	respond := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
	}
	for name, c := range map[string]struct {
		handler http.Handler
		later   bool // another try may succeed
	}{
		"no such page": {http.NotFoundHandler(), false},
		"no key set":   {respond(http.StatusOK), false},
		"starting":     {respond(http.StatusServiceUnavailable), true},
		"limited":      {respond(http.StatusTooManyRequests), true},
		"disconnects":  {http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), true},
		"half a set": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("{"))
		}), true},
		"no listener": {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			address := "http://127.0.0.1:1/keys"
			if c.handler != nil {
				server := httptest.NewServer(c.handler)
				defer server.Close()
				address = server.URL
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			_, err := auth.New(ctx, auth.Config{JWKSURL: address})
			require.ErrorContains(t, err, address)
			require.ErrorContains(t, err, "give the URL of a JSON Web Key Set")
			require.Equal(t, c.later, errors.Is(err, auth.ErrKeySetUnavailable), err.Error())
		})
	}
	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	defer untrusted.Close()
	_, err := auth.New(t.Context(), auth.Config{JWKSURL: untrusted.URL})
	require.Error(t, err)
	require.NotErrorIs(t, err, auth.ErrKeySetUnavailable, "a certificate does not become right by waiting")
}

// TestJWKS_Purpose has keys whose use, key_ops or alg exclude a token's signature.
func TestJWKS_Purpose(t *testing.T) {
	for name, c := range map[string]struct {
		member string
		value  any
		ok     bool
	}{
		"unspecified":            {"other", "x", true},
		"for signatures":         {"use", "sig", true},
		"for encryption":         {"use", "enc", false},
		"verifies":               {"key_ops", []string{"verify"}, true},
		"wraps keys":             {"key_ops", []string{"wrapKey", "encrypt"}, false},
		"its algorithm":          {"alg", "RS256", true},
		"another algorithm":      {"alg", "PS256", false},
		"encryption's algorithm": {"alg", "RSA-OAEP", false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, kid := range []string{"k", ""} {
				set, key := &jwks{}, rsaJWK("k")
				key[c.member] = c.value
				set.add(key)
				ctx, v := set.verifier(t)
				_, err := v.Verify(ctx, signKID(t, jwt.SigningMethodRS256, rsaKey, kid))
				if c.ok {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, auth.ErrToken)
				}
			}
		})
	}
}

func TestJWKS_PlainHTTP(t *testing.T) {
	for _, good := range []string{"https://login.example.com/keys", "http://127.0.0.1:8080/keys", "http://localhost/keys", "http://[::1]:80/keys"} {
		require.NoError(t, auth.CheckJWKSURL(good), good)
	}
	for _, bad := range []string{"http://login.example.com/keys", "http://10.0.0.1/keys", "http://localhost.example.com/keys", "ftp://localhost/x", "keys"} {
		require.Error(t, auth.CheckJWKSURL(bad), bad)
	}
	_, err := auth.New(t.Context(), auth.Config{JWKSURL: "http://login.example.com/keys"})
	require.ErrorContains(t, err, "plain http to another machine")

	redirecting := httptest.NewServer(http.RedirectHandler("http://login.example.com/keys", http.StatusFound))
	defer redirecting.Close()
	_, err = auth.New(t.Context(), auth.Config{JWKSURL: redirecting.URL})
	require.ErrorContains(t, err, "plain http to another machine")
}
