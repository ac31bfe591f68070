package auth

import "errors"

// Reasons for which a token is refused. They contain nothing of the token, so they may be logged
// and counted.
const (
	ReasonMalformed   = "malformed"     // not three parts, or not the encoding of a JWT
	ReasonAlgorithm   = "algorithm"     // another algorithm than the key's, or a critical extension
	ReasonKey         = "key"           // the key set has no such key, or cannot be fetched
	ReasonSignature   = "signature"     // not signed with the key
	ReasonExpired     = "expired"       // exp has passed
	ReasonNotYetValid = "not_yet_valid" // nbf is in the future
	ReasonIssuer      = "issuer"        // iss is not the configured one
	ReasonAudience    = "audience"      // aud has not the configured one
	ReasonClaims      = "claims"        // a claim is missing or has another type
	ReasonOther       = "other"
)

type refusal struct {
	reason string
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }

func (r *refusal) Unwrap() error { return r.err }

func refuse(reason string, err error) error { return &refusal{reason, err} }

// Reason returns why Verify refused a token, as one of the reasons above.
func Reason(err error) string {
	var r *refusal
	if errors.As(err, &r) {
		return r.reason
	}
	return ReasonOther
}
