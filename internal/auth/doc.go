// Package auth verifies bearer tokens and signs them for the command line.
//
// The key decides the algorithm, never the token's header: a secret verifies
// HS256, an RSA key RS256, a P-256 key ES256, an Ed25519 key EdDSA. A token whose
// header names another algorithm than its key's is refused before its signature is
// verified, so that "none" and a public key used as a secret never count. A key file
// that holds a key in another form than PEM is refused at startup, because as a secret
// it would be one that everybody knows.
//
// The cryptography is golang-jwt's (HS256: crypto/hmac with the key's state kept
// ready); key sets are keyfunc's. Only the parsing of a token is done here,
// because golang-jwt's parser costs several times the signature's verification, and a
// rush has a new token with nearly every request, so that a cache of verified
// tokens would not help. The tests compare every result with golang-jwt's.
//
// # Users
//
// A token needs exp and a sub of 1 to 255 characters. A user is known by a UUID: sub
// itself if it is one, otherwise the UUIDv5 of issuer and sub. A sub that is no UUID
// may be a name or an address, so it is neither stored nor logged.
//
// nbf is honoured, with a leeway of two seconds for the issuer's clock; exp has none.
// iss and aud are compared if they are configured, which they must be with a key set.
// The roles are in the claim "roles" or another one; roles other than buyer and admin
// are ignored.
package auth
