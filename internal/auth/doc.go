// Package auth verifies bearer tokens and signs them for the command line.
//
// The key decides the algorithm, never the token's header: a secret verifies
// HS256, an RSA key RS256, a P-256 key ES256, an Ed25519 key EdDSA. A token whose
// header names another algorithm than its key's is refused before any signature
// is looked at, so "none" and a public key used as a secret come to nothing.
// The cryptography is golang-jwt's (HS256: crypto/hmac with the key's state kept
// ready); key sets are keyfunc's. Only the taking apart of a token is done here,
// because golang-jwt's parser costs several times the signature's check, and a
// rush brings a new token with nearly every request, so that a cache of verified
// tokens would not help. The tests compare every verdict with golang-jwt's.
//
// A token needs exp and a sub that is a UUID. nbf is honoured, with a leeway of
// two seconds for the issuer's clock; exp has none. iss and aud are compared where
// they are configured. Roles other than buyer and admin are ignored.
package auth
