package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

const (
	// jwksRefresh is how old the set may become.
	jwksRefresh = 15 * time.Minute
	// jwksUnknown is how often an unknown key id may fetch the set out of turn, so
	// that made-up ids do not turn into requests to the issuer.
	jwksUnknown = 10 * time.Second
	// jwksTimeout ends one fetch.
	jwksTimeout = 5 * time.Second
	// jwksWait is how long a request with an unknown key id may wait for the set.
	// It is shorter than jwksUnknown: who comes out of turn is refused at once.
	jwksWait = jwksTimeout
)

type keySet struct{ set keyfunc.Keyfunc }

func newKeySet(ctx context.Context, url string) (*keySet, error) {
	strict := false
	set, err := keyfunc.NewDefaultOverrideCtx(ctx, []string{url}, keyfunc.Override{
		HTTPTimeout:               jwksTimeout,
		NoErrorReturnFirstHTTPReq: &strict,
		RateLimitWaitMax:          jwksWait,
		RefreshInterval:           jwksRefresh,
		RefreshUnknownKID:         rate.NewLimiter(rate.Every(jwksUnknown), 1),
		RefreshErrorHandlerFunc: func(u string) func(context.Context, error) {
			return func(ctx context.Context, err error) {
				slog.WarnContext(ctx, "the key set could not be fetched, the last one stays in use", "url", u, "error", err)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("fetch the key set from %s: %w; give the URL of a JSON Web Key Set", url, err)
	}
	return &keySet{set}, nil
}

// key finds the key that the header names. A token without a key id is taken where
// one key of the set alone has its algorithm.
func (s *keySet) key(ctx context.Context, h header) (key, error) {
	// The refreshing of the set outlives a client that goes away.
	ctx = context.WithoutCancel(ctx)
	if h.KID == "" {
		return s.only(ctx, h.Alg)
	}
	found, err := s.set.KeyfuncCtx(ctx)(&jwt.Token{Header: map[string]any{"alg": h.Alg, "kid": h.KID}})
	if err != nil {
		return key{}, fmt.Errorf("find the key: %w", err)
	}
	return publicKey(found)
}

func (s *keySet) only(ctx context.Context, alg string) (key, error) {
	all, err := s.set.VerificationKeySet(ctx)
	if err != nil {
		return key{}, fmt.Errorf("read the key set: %w", err)
	}
	var only []key
	for _, candidate := range all.Keys {
		if k, err := publicKey(candidate); err == nil && k.alg == alg {
			only = append(only, k)
		}
	}
	if len(only) != 1 {
		return key{}, errors.New("the token names no key and the set does not have just one for it")
	}
	return only[0], nil
}
