package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/internal/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var sub = uuid.MustParse("0af76519-16cd-43dd-8448-eb211c80319c")

// keys of every kind, made once.
var (
	rsaKey, _     = rsa.GenerateKey(rand.Reader, 2048)
	ecKey, _      = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, edKey, _   = ed25519.GenerateKey(rand.Reader)
	_, otherEd, _ = ed25519.GenerateKey(rand.Reader)
)

func publicPEM(t testing.TB, public any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func privatePEM(t testing.TB, private any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func verifier(t testing.TB, key string, change ...func(*auth.Config)) *auth.Verifier {
	t.Helper()
	cfg := auth.Config{KeyFile: write(t, key)}
	for _, c := range change {
		c(&cfg)
	}
	v, err := auth.New(context.Background(), cfg)
	require.NoError(t, err)
	return v
}

func claims() jwt.MapClaims {
	return jwt.MapClaims{"sub": sub.String(), "roles": []string{"buyer"}, "exp": time.Now().Add(time.Hour).Unix()}
}

func with(change func(jwt.MapClaims)) jwt.MapClaims {
	c := claims()
	change(c)
	return c
}

func sign(t testing.TB, method jwt.SigningMethod, key any, c jwt.Claims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(method, c).SignedString(key)
	require.NoError(t, err)
	return token
}

func hs(t testing.TB, c jwt.MapClaims) string {
	return sign(t, jwt.SigningMethodHS256, []byte(secret), c)
}

// The algorithms of bearer tokens (contract 7).
func TestVerify_KeyTypes(t *testing.T) {
	for name, c := range map[string]struct {
		public  string
		private any
		method  jwt.SigningMethod
	}{
		"HS256":             {secret, []byte(secret), jwt.SigningMethodHS256},
		"HS256 with a line": {secret + "\n", []byte(secret), jwt.SigningMethodHS256},
		"RS256":             {publicPEM(t, &rsaKey.PublicKey), rsaKey, jwt.SigningMethodRS256},
		"RS256, PKCS 1": {string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY",
			Bytes: x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey)})), rsaKey, jwt.SigningMethodRS256},
		"ES256": {publicPEM(t, &ecKey.PublicKey), ecKey, jwt.SigningMethodES256},
		"EdDSA": {publicPEM(t, edKey.Public()), edKey, jwt.SigningMethodEdDSA},
	} {
		t.Run(name, func(t *testing.T) {
			v := verifier(t, c.public)
			token := sign(t, c.method, c.private, claims())
			for range 2 { // the second time the header is cached
				id, err := v.Verify(context.Background(), token)
				require.NoError(t, err)
				require.Equal(t, sub, id.Sub)
				require.Equal(t, auth.Buyer, id.Roles)
			}
			parts := strings.Split(token, ".")
			none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
			for attack, bad := range map[string]string{
				"none":                      none + "." + parts[1] + ".",
				"none with the other parts": none + "." + parts[1] + "." + parts[2],
				"no signature":              parts[0] + "." + parts[1] + ".",
				"claims of another":         parts[0] + "." + strings.Split(sign(t, c.method, c.private, with(func(c jwt.MapClaims) { c["roles"] = []string{"admin"} })), ".")[1] + "." + parts[2],
				"public key as secret": sign(t, jwt.SigningMethodHS256, []byte(c.public+" "),
					claims()),
				"another key": sign(t, jwt.SigningMethodEdDSA, otherEd, claims()),
				"four parts":  token + ".x",
				"padding":     token + "=",
			} {
				_, err := v.Verify(context.Background(), bad)
				require.ErrorIs(t, err, auth.ErrToken, attack)
			}
		})
	}
}

// TestVerify_AlgorithmConfusion signs with every method that could be confused with the key's (contract 7).
func TestVerify_AlgorithmConfusion(t *testing.T) {
	rsaPublic, ecPublic, edPublic := publicPEM(t, &rsaKey.PublicKey), publicPEM(t, &ecKey.PublicKey), publicPEM(t, edKey.Public())
	ec384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		key, token string
	}{
		"RSA key, its PEM as an HS256 secret":     {rsaPublic, sign(t, jwt.SigningMethodHS256, []byte(rsaPublic), claims())},
		"EC key, its PEM as an HS256 secret":      {ecPublic, sign(t, jwt.SigningMethodHS256, []byte(ecPublic), claims())},
		"Ed25519 key, its PEM as an HS256 secret": {edPublic, sign(t, jwt.SigningMethodHS256, []byte(edPublic), claims())},
		"Ed25519 key, its bytes as a secret":      {edPublic, sign(t, jwt.SigningMethodHS256, []byte(edKey.Public().(ed25519.PublicKey)), claims())},
		"RSA key, RS512":                          {rsaPublic, sign(t, jwt.SigningMethodRS512, rsaKey, claims())},
		"RSA key, PS256":                          {rsaPublic, sign(t, jwt.SigningMethodPS256, rsaKey, claims())},
		"EC key, ES384":                           {ecPublic, sign(t, jwt.SigningMethodES384, ec384, claims())},
		"secret, HS512":                           {secret, sign(t, jwt.SigningMethodHS512, []byte(secret), claims())},
		"secret, RS256":                           {secret, sign(t, jwt.SigningMethodRS256, rsaKey, claims())},
	} {
		_, err := verifier(t, c.key).Verify(context.Background(), c.token)
		require.ErrorIs(t, err, auth.ErrToken, name)
	}
	// The right signature under a header with another algorithm.
	signed := hs(t, claims())
	for _, head := range []string{`{"alg":"none"}`, `{"alg":"HS512"}`, `{"alg":"hs256"}`, `{}`, `{"alg":["HS256"]}`, `{"alg":"HS256","crit":["b64"],"b64":false}`, `[]`, ``} {
		h := base64.RawURLEncoding.EncodeToString([]byte(head))
		body := strings.Split(signed, ".")[1]
		signature, err := jwt.SigningMethodHS256.Sign(h+"."+body, []byte(secret))
		require.NoError(t, err)
		_, err = verifier(t, secret).Verify(context.Background(), h+"."+body+"."+base64.RawURLEncoding.EncodeToString(signature))
		require.ErrorIs(t, err, auth.ErrToken, head)
	}
}

func TestVerify_Claims(t *testing.T) {
	now := time.Now()
	scoped := func(c *auth.Config) { c.Issuer, c.Audience = "https://login", "store" }
	for _, c := range []struct {
		name   string
		claims jwt.MapClaims
		scoped bool
		roles  auth.Roles
		ok     bool
	}{
		{"buyer", claims(), false, auth.Buyer, true},
		{"both", with(func(c jwt.MapClaims) { c["roles"] = []string{"admin", "buyer"} }), false, auth.Buyer | auth.Admin, true},
		{"unknown role", with(func(c jwt.MapClaims) { c["roles"] = []string{"root", "admin", "Buyer"} }), false, auth.Admin, true},
		{"no roles", with(func(c jwt.MapClaims) { delete(c, "roles") }), false, 0, true},
		{"empty roles", with(func(c jwt.MapClaims) { c["roles"] = []string{} }), false, 0, true},
		{"roles as text", with(func(c jwt.MapClaims) { c["roles"] = "admin" }), false, 0, false},
		{"roles of numbers", with(func(c jwt.MapClaims) { c["roles"] = []int{1} }), false, 0, false},
		{"other claims", with(func(c jwt.MapClaims) { c["email"], c["iat"] = "a@b.c", now.Add(time.Hour).Unix() }), false, auth.Buyer, true},
		{"no exp", with(func(c jwt.MapClaims) { delete(c, "exp") }), false, 0, false},
		{"null exp", with(func(c jwt.MapClaims) { c["exp"] = nil }), false, 0, false},
		{"EXP", with(func(c jwt.MapClaims) { c["EXP"] = c["exp"]; delete(c, "exp") }), false, 0, false},
		{"exp as text", with(func(c jwt.MapClaims) { c["exp"] = "9999999999" }), false, 0, false},
		{"expired", with(func(c jwt.MapClaims) { c["exp"] = now.Add(-time.Second).Unix() }), false, 0, false},
		{"expires now", with(func(c jwt.MapClaims) { c["exp"] = float64(now.UnixMilli()) / 1000 }), false, 0, false},
		{"exp with a fraction", with(func(c jwt.MapClaims) { c["exp"] = float64(now.Unix()) + 100.5 }), false, auth.Buyer, true},
		{"nbf past", with(func(c jwt.MapClaims) { c["nbf"] = now.Unix() }), false, auth.Buyer, true},
		{"nbf ahead", with(func(c jwt.MapClaims) { c["nbf"] = now.Add(10 * time.Second).Unix() }), false, 0, false},
		{"no sub", with(func(c jwt.MapClaims) { delete(c, "sub") }), false, 0, false},
		{"sub empty", with(func(c jwt.MapClaims) { c["sub"] = "" }), false, 0, false},
		{"sub of 256 characters", with(func(c jwt.MapClaims) { c["sub"] = strings.Repeat("é", 256) }), false, 0, false},
		{"sub a number", with(func(c jwt.MapClaims) { c["sub"] = 5 }), false, 0, false},
		{"sub in another spelling", with(func(c jwt.MapClaims) { c["sub"] = "urn:uuid:" + sub.String() }), false, auth.Buyer, true},
		{"sub in upper case", with(func(c jwt.MapClaims) { c["sub"] = strings.ToUpper(sub.String()) }), false, auth.Buyer, true},
		{"right scope", with(func(c jwt.MapClaims) { c["iss"], c["aud"] = "https://login", "store" }), true, auth.Buyer, true},
		{"scope among others", with(func(c jwt.MapClaims) { c["iss"], c["aud"] = "https://login", []string{"x", "store"} }), true, auth.Buyer, true},
		{"no scope", claims(), true, 0, false},
		{"another issuer", with(func(c jwt.MapClaims) { c["iss"], c["aud"] = "https://evil", "store" }), true, 0, false},
		{"another audience", with(func(c jwt.MapClaims) { c["iss"], c["aud"] = "https://login", []string{"x"} }), true, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			change := []func(*auth.Config){func(cfg *auth.Config) { cfg.Now = func() time.Time { return now } }}
			if c.scoped {
				change = append(change, scoped)
			}
			id, err := verifier(t, secret, change...).Verify(context.Background(), hs(t, c.claims))
			if !c.ok {
				require.ErrorIs(t, err, auth.ErrToken)
				require.Zero(t, id)
				return
			}
			require.NoError(t, err)
			require.Equal(t, sub, id.Sub)
			require.Equal(t, c.roles, id.Roles)
		})
	}
}

// TestVerify_Expires compares an identity's expiry with the time when its token is refused.
func TestVerify_Expires(t *testing.T) {
	begin := time.Now().Truncate(time.Second)
	for _, exp := range []float64{100, 100.5, 100.25, 1e9, 1e17, 1e300} {
		now := begin
		v := verifier(t, secret, func(cfg *auth.Config) { cfg.Now = func() time.Time { return now } })
		token := hs(t, with(func(c jwt.MapClaims) { c["exp"] = float64(begin.Unix()) + exp }))
		id, err := v.Verify(context.Background(), token)
		require.NoError(t, err)
		require.True(t, id.Expires.After(begin), "%v: %v", exp, id.Expires)
		if exp > 1e9 {
			continue // the far future, which is clamped
		}
		now = id.Expires.Add(-time.Millisecond)
		_, err = v.Verify(context.Background(), token)
		require.NoError(t, err)
		now = id.Expires
		_, err = v.Verify(context.Background(), token)
		require.ErrorIs(t, err, auth.ErrToken)
	}
}

// TestVerify_AgreesWithGolangJWT mutates tokens and compares the result with golang-jwt's: a token
// that golang-jwt refuses is never accepted.
func TestVerify_AgreesWithGolangJWT(t *testing.T) {
	v := verifier(t, secret)
	token := hs(t, claims())
	rapid.Check(t, func(t *rapid.T) {
		b := []byte(token)
		for range rapid.IntRange(0, 3).Draw(t, "changes") {
			i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
			switch rapid.IntRange(0, 2).Draw(t, "how") {
			case 0:
				b[i] = rapid.SampledFrom([]byte("ABab01-_.=\n")).Draw(t, "char")
			case 1:
				b = append(b[:i], b[i+1:]...)
			case 2:
				b = append(b[:i], append([]byte{b[i]}, b[i:]...)...)
			}
		}
		_, ours := v.Verify(context.Background(), string(b))
		_, theirs := jwt.Parse(string(b), func(*jwt.Token) (any, error) { return []byte(secret), nil },
			jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
		if ours == nil {
			require.NoError(t, theirs, "taken: %s", b)
		}
		if string(b) == token {
			require.NoError(t, ours)
		}
	})
}

func TestKeyFile_Refused(t *testing.T) {
	ec384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	for name, content := range map[string]string{
		"empty":            "",
		"short":            strings.Repeat("x", 31),
		"short with lines": strings.Repeat("x", 31) + "\n",
		"P-384":            publicPEM(t, &ec384.PublicKey),
		"private":          privatePEM(t, ecKey),
		"damaged PEM":      "-----BEGIN PUBLIC KEY-----\n" + strings.Repeat("A", 64) + "\n-----END PUBLIC KEY-----\n",
		"cut PEM":          publicPEM(t, &rsaKey.PublicKey)[:200],
	} {
		_, err := auth.New(context.Background(), auth.Config{KeyFile: write(t, content)})
		require.ErrorContains(t, err, "give a public key in PEM", name)
		require.NotContains(t, err.Error(), "xxx", "an error repeated a secret")
	}
	_, err = auth.New(context.Background(), auth.Config{KeyFile: "/no/such/file"})
	require.ErrorContains(t, err, "/no/such/file")
	_, err = auth.New(context.Background(), auth.Config{})
	require.ErrorContains(t, err, "give a public key")
	_, err = auth.New(context.Background(), auth.Config{KeyFile: write(t, secret), JWKSURL: "http://x"})
	require.Error(t, err)
}

func TestSigner_Sign(t *testing.T) {
	pkcs1 := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}))
	sec1der, err := x509.MarshalECPrivateKey(ecKey)
	require.NoError(t, err)
	sec1 := string(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8}})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1der}))
	for name, c := range map[string]struct{ public, private string }{
		"secret":      {secret + "\n", ""},
		"RSA":         {publicPEM(t, &rsaKey.PublicKey), privatePEM(t, rsaKey)},
		"RSA, PKCS 1": {publicPEM(t, &rsaKey.PublicKey), pkcs1},
		"EC":          {publicPEM(t, &ecKey.PublicKey), privatePEM(t, ecKey)},
		"EC, SEC 1":   {publicPEM(t, &ecKey.PublicKey), sec1},
		"Ed25519":     {publicPEM(t, edKey.Public()), privatePEM(t, edKey)},
	} {
		cfg := auth.SignerConfig{KeyFile: write(t, c.public), Issuer: "https://login", Audience: "store"}
		if c.private != "" {
			_, err := auth.NewSigner(cfg)
			require.ErrorIs(t, err, auth.ErrPrivateKeyNeeded, name)
			cfg.PrivateKeyFile = write(t, c.private)
		}
		signer, err := auth.NewSigner(cfg)
		require.NoError(t, err, name)
		token, err := signer.Sign(sub, auth.Buyer|auth.Admin, time.Minute)
		require.NoError(t, err, name)
		v := verifier(t, c.public, func(c *auth.Config) { c.Issuer, c.Audience = "https://login", "store" })
		id, err := v.Verify(context.Background(), token)
		require.NoError(t, err, name)
		require.Equal(t, sub, id.Sub)
		require.Equal(t, auth.Buyer|auth.Admin, id.Roles)
		require.WithinDuration(t, time.Now().Add(time.Minute), id.Expires, 2*time.Second)
	}
	_, err = auth.NewSigner(auth.SignerConfig{PrivateKeyFile: write(t, publicPEM(t, edKey.Public()))})
	require.ErrorContains(t, err, "private key")
	_, err = auth.NewSigner(auth.SignerConfig{})
	require.Error(t, err)
}

func TestRoles_Names(t *testing.T) {
	require.Equal(t, "buyer,admin", (auth.Buyer | auth.Admin).String())
	require.Equal(t, auth.Admin, auth.RoleNamed("admin"))
	require.Zero(t, auth.RoleNamed("root"))
	require.False(t, auth.Identity{Roles: auth.Buyer}.Has(auth.Admin))
	raw, err := json.Marshal(auth.Roles(0).Names())
	require.NoError(t, err)
	require.Equal(t, "[]", string(raw))
}
