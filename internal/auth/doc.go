// Package auth verifies bearer tokens, and signs them for the command line.
//
// The key decides the algorithm, never the token's header: a secret verifies HS256, an RSA key
// RS256, a P-256 key ES256, an Ed25519 key EdDSA. If a token's header names another algorithm than
// its key's, it is refused before its signature is verified, so that "none" and a public key used
// as a secret are never accepted. A key file in another form than PEM is refused at startup: used
// as a secret it would be publicly known.
//
// The cryptography is golang-jwt's (HS256: crypto/hmac with the key's state kept ready); key sets
// are keyfunc's. Only the parsing of a token is implemented here, because golang-jwt's parser takes
// several times as long as the verification of the signature. A rush has a new token with nearly
// every request, so a cache of verified tokens would not help. The tests compare every result with
// golang-jwt's.
//
// # Users
//
// A token needs exp and a sub of 1 to 255 characters. A user is identified by a UUID: sub itself if
// it is one, otherwise the UUIDv5 of issuer and sub. A sub that is not a UUID may be a name or an
// address, so it is neither stored nor logged.
//
// nbf is checked with a leeway of two seconds for the issuer's clock, exp with none. iss and aud
// are compared if they are configured, which they must be with a key set. The roles are in the
// claim "roles" or in a configured one; other names than those of Roles are ignored.
package auth
