package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
)

// namespace is the one that the contract fixes, repeated here on purpose.
var namespace = uuid.MustParse("6f1e0d5e-8b1e-5f6b-9d0a-2f3f7f0c2a11")

func derived(iss, sub string) uuid.UUID { return uuid.NewSHA1(namespace, []byte(iss+"\n"+sub)) }

// The user id of a token (contract 7).
func TestUserID_Derivation(t *testing.T) {
	plain := strings.ReplaceAll(sub.String(), "-", "")
	five := derived("", "somebody").String()
	for text, want := range map[string]uuid.UUID{
		sub.String():                  sub,
		strings.ToUpper(sub.String()): sub,
		plain:                         sub,
		strings.ToUpper(plain):        sub,
		"{" + sub.String() + "}":      sub,
		"urn:uuid:" + sub.String():    sub,
		"urn:uuid:" + strings.ToUpper(sub.String()): sub,

		uuid.Nil.String():        derived("", uuid.Nil.String()),
		five:                     derived("", five),
		strings.ToUpper(five):    derived("", strings.ToUpper(five)),
		"(" + sub.String() + ")": derived("", "("+sub.String()+")"),
		"{" + sub.String() + ")": derived("", "{"+sub.String()+")"),
		"{" + plain + "}":        derived("", "{"+plain+"}"),
		sub.String() + " ":       derived("", sub.String()+" "),
		sub.String()[:35]:        derived("", sub.String()[:35]),
		"a":                      derived("", "a"),
		strings.Repeat("é", 255): derived("", strings.Repeat("é", 255)),
	} {
		id, err := verifier(t, secret).Verify(t.Context(), hs(t, with(func(c jwt.MapClaims) { c["sub"] = text })))
		require.NoError(t, err, text)
		require.Equal(t, want, id.Sub, text)
	}
	require.Equal(t, "244359eb-6b69-54c9-96fa-a680c0f1076f", derived("https://issuer.example.com/", "auth0|1").String())
}

// TestVerify_Issuers has the claims of tokens as identity providers issue them.
func TestVerify_Issuers(t *testing.T) {
	exp := time.Now().Add(time.Hour).Unix()
	for name, c := range map[string]struct {
		claims string
		config auth.Config
		user   uuid.UUID
		roles  auth.Roles
	}{
		"Auth0, access token": {
			claims: `{"https://shop.example.com/roles":["buyer","admin"],"iss":"https://shop.eu.auth0.com/","sub":"auth0|5f7c8ec7c33c6c004bbafe82","aud":["https://api.shop.example.com","https://shop.eu.auth0.com/userinfo"],"iat":1,"azp":"x","scope":"openid profile","permissions":[]}`,
			config: auth.Config{Issuer: "https://shop.eu.auth0.com/", Audience: "https://api.shop.example.com", RolesClaim: "https://shop.example.com/roles"},
			user:   derived("https://shop.eu.auth0.com/", "auth0|5f7c8ec7c33c6c004bbafe82"), roles: auth.Buyer | auth.Admin,
		},
		"Google, ID token": {
			claims: `{"iss":"https://accounts.google.com","azp":"1234.apps.googleusercontent.com","aud":"1234.apps.googleusercontent.com","sub":"110169484474386276334","email":"a@example.com","email_verified":true,"at_hash":"x","name":"A","iat":1}`,
			config: auth.Config{Issuer: "https://accounts.google.com", Audience: "1234.apps.googleusercontent.com", DefaultRoles: auth.Buyer},
			user:   derived("https://accounts.google.com", "110169484474386276334"), roles: auth.Buyer,
		},
		"Kakao, ID token": {
			claims: `{"aud":"a1b2c3","sub":"2890111222","auth_time":1,"iss":"https://kauth.kakao.com","nickname":"JordyK","iat":1,"picture":"https://k.kakaocdn.net/x.jpg"}`,
			config: auth.Config{Issuer: "https://kauth.kakao.com", Audience: "a1b2c3", DefaultRoles: auth.Buyer},
			user:   derived("https://kauth.kakao.com", "2890111222"), roles: auth.Buyer,
		},
		"Firebase, ID token with a custom claim": {
			claims: `{"roles":["buyer"],"iss":"https://securetoken.google.com/shop","aud":"shop","auth_time":1,"user_id":"ZkKFpSZqFMhlGY5JmpmhYMJ3s0z1","sub":"ZkKFpSZqFMhlGY5JmpmhYMJ3s0z1","iat":1,"firebase":{"identities":{"email":["a@example.com"]},"sign_in_provider":"password"}}`,
			config: auth.Config{Issuer: "https://securetoken.google.com/shop", Audience: "shop", DefaultRoles: auth.Admin},
			user:   derived("https://securetoken.google.com/shop", "ZkKFpSZqFMhlGY5JmpmhYMJ3s0z1"), roles: auth.Buyer,
		},
		"Keycloak, access token": {
			claims: `{"iat":1,"jti":"x","iss":"https://login.example.com/realms/shop","aud":["store","account"],"sub":"f:0af76519-16cd-43dd-8448-eb211c80319c:alice","typ":"Bearer","realm_access":{"roles":["offline_access","admin","uma_authorization"]},"resource_access":{"account":{"roles":["view-profile"]}},"roles":"not ours"}`,
			config: auth.Config{Issuer: "https://login.example.com/realms/shop", Audience: "store", RolesClaim: "realm_access.roles", DefaultRoles: auth.Buyer},
			user:   derived("https://login.example.com/realms/shop", "f:0af76519-16cd-43dd-8448-eb211c80319c:alice"), roles: auth.Admin,
		},
		"Keycloak, roles of a client with a dot in its name": {
			claims: `{"iss":"i","aud":"store","sub":"0af76519-16cd-43dd-8448-eb211c80319c","resource_access":{"shop.example.com":{"roles":["buyer"]}}}`,
			config: auth.Config{Issuer: "i", Audience: "store", RolesClaim: "resource_access.shop.example.com.roles"},
			user:   sub, roles: auth.Buyer,
		},
		"Cognito, ID token": {
			claims: `{"sub":"0AF76519-16CD-43DD-8448-EB211C80319C","cognito:groups":["buyer"],"email_verified":true,"iss":"https://cognito-idp.ap-northeast-2.amazonaws.com/ap-northeast-2_x","cognito:username":"alice","aud":"4example","token_use":"id","auth_time":1,"iat":1}`,
			config: auth.Config{Issuer: "https://cognito-idp.ap-northeast-2.amazonaws.com/ap-northeast-2_x", Audience: "4example", RolesClaim: "cognito:groups"},
			user:   sub, roles: auth.Buyer,
		},
		"default roles do not add to given ones": {
			claims: `{"sub":"a","roles":[]}`, config: auth.Config{DefaultRoles: auth.Buyer | auth.Admin}, user: derived("", "a"),
		},
		"null is not a claim": {
			claims: `{"sub":"a","roles":null}`, config: auth.Config{DefaultRoles: auth.Buyer}, user: derived("", "a"), roles: auth.Buyer,
		},
		"a nested claim that is not there": {
			claims: `{"sub":"a","realm_access":"x"}`, config: auth.Config{RolesClaim: "realm_access.roles", DefaultRoles: auth.Buyer}, user: derived("", "a"), roles: auth.Buyer,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var claims jwt.MapClaims
			require.NoError(t, json.Unmarshal([]byte(c.claims), &claims))
			claims["exp"] = exp
			v := verifier(t, secret, func(cfg *auth.Config) {
				c.config.KeyFile = cfg.KeyFile
				*cfg = c.config
			})
			id, err := v.Verify(t.Context(), hs(t, claims))
			require.NoError(t, err)
			require.Equal(t, c.user, id.Sub)
			require.Equal(t, c.roles, id.Roles)
		})
	}
}

func inUTF16(order binary.AppendByteOrder, text string) string {
	var out []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		out = order.AppendUint16(out, unit)
	}
	return string(out)
}

// TestKeyFile_OtherForms has public keys that are not in PEM: used as a secret each would be
// publicly known.
func TestKeyFile_OtherForms(t *testing.T) {
	der := func(public any) string {
		raw, err := x509.MarshalPKIXPublicKey(public)
		require.NoError(t, err)
		return string(raw)
	}
	small, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	for name, content := range map[string]string{
		"RSA in DER":              der(&rsaKey.PublicKey),
		"RSA in PKCS 1":           string(x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey)),
		"EC in DER":               der(&small.PublicKey),
		"Ed25519 in DER":          der(edKey.Public()),
		"DER with a newline":      der(&rsaKey.PublicKey) + "\n",
		"DER in base64":           base64.StdEncoding.EncodeToString([]byte(der(&rsaKey.PublicKey))),
		"JWK":                     `{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx","e":"AQAB"}`,
		"JWK set":                 "\n {\"keys\": [{\"kty\":\"oct\",\"k\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}]}\n",
		"OpenSSH":                 "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SaAF3gbg3M8Y shop@login\n",
		"OpenSSH, ECDSA":          "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTY= x\n",
		"authorized_keys":         `no-pty,command="x" ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ== shop@login`,
		"SSH2":                    "---- BEGIN SSH2 PUBLIC KEY ----\nAAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0\n---- END SSH2 PUBLIC KEY ----\n",
		"a URL":                   "https://login.example.com/.well-known/jwks.json\n",
		"XML":                     "<RSAKeyValue><Modulus>0vx7agoebGcQSuuPiLJXZptN9nndrQmb</Modulus></RSAKeyValue>",
		"PEM in UTF-16":           inUTF16(binary.LittleEndian, publicPEM(t, &rsaKey.PublicKey)),
		"PEM in UTF-16 with BOM":  inUTF16(binary.LittleEndian, "\ufeff"+publicPEM(t, &rsaKey.PublicKey)),
		"PEM in UTF-16, big":      inUTF16(binary.BigEndian, publicPEM(t, &rsaKey.PublicKey)),
		"JWK in UTF-16":           inUTF16(binary.LittleEndian, `{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmb","e":"AQAB"}`),
		"a certificate's request": "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := auth.New(t.Context(), auth.Config{KeyFile: write(t, content)})
			require.ErrorContains(t, err, "give a public key in PEM")
			_, err = auth.NewSigner(auth.SignerConfig{KeyFile: write(t, content)})
			require.Error(t, err)
		})
	}
}

// TestKeyFile_Secrets has secrets that resemble other formats.
func TestKeyFile_Secrets(t *testing.T) {
	random := make([]byte, 48)
	_, err := rand.Read(random)
	require.NoError(t, err)
	random[0] = 0x30
	for name, content := range map[string]string{
		"random bytes":   string(random),
		"base64":         base64.StdEncoding.EncodeToString(random),
		"hex":            strings.Repeat("0123456789abcdef", 4),
		"a brace":        "{" + strings.Repeat("k", 40),
		"an SSH prefix":  "ssh-" + strings.Repeat("k", 40),
		"zeros at times": "\x00" + strings.Repeat("ab\x00", 16),
	} {
		_, err := auth.New(t.Context(), auth.Config{KeyFile: write(t, content)})
		require.NoError(t, err, name)
	}
}
