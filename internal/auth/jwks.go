package auth

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

const (
	// jwksRefresh is the maximum age of the set.
	jwksRefresh = 15 * time.Minute
	// jwksUnknown is the minimum time between two fetches caused by unknown key ids, so that
	// invented ids do not cause requests to the issuer.
	jwksUnknown = 10 * time.Second
	// jwksTimeout bounds one fetch.
	jwksTimeout = 5 * time.Second
	// jwksWait is how long a request with an unknown key id may wait for the set. Within
	// jwksUnknown of the last fetch it is refused immediately.
	jwksWait = jwksTimeout
)

type keySet struct{ set keyfunc.Keyfunc }

// ErrKeySetUnavailable means that the server of the key set does not respond, or not now: it may
// later. Other errors of a key set mean that its URL is wrong.
var ErrKeySetUnavailable = errors.New("the key set is unavailable")

// keySetTransport returns ErrKeySetUnavailable for what may be different later.
type keySetTransport struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t keySetTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	switch untrusted := (*tls.CertificateVerificationError)(nil); {
	case errors.As(err, &untrusted):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrKeySetUnavailable, err)
	case resp.StatusCode >= http.StatusInternalServerError, resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusRequestTimeout:
		_ = resp.Body.Close() // nothing of it is used
		return nil, fmt.Errorf("%w: it responds with status %d", ErrKeySetUnavailable, resp.StatusCode)
	}
	return resp, nil
}

// CheckJWKSURL refuses a key set's URL whose content could be changed in transit: plain http is
// accepted only for the local machine.
func CheckJWKSURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return errors.New("is not a URL of http or https")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("uses plain http to another machine, where keys can be replaced in transit; use https")
	}
	return nil
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

func newKeySet(ctx context.Context, address string) (*keySet, error) {
	if err := CheckJWKSURL(address); err != nil {
		return nil, fmt.Errorf("the key set's URL %w", err)
	}
	strict := false
	set, err := keyfunc.NewDefaultOverrideCtx(ctx, []string{address}, keyfunc.Override{
		Client:                    &http.Client{CheckRedirect: checkRedirect, Transport: keySetTransport{http.DefaultTransport}},
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
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF) { // while the set was read
		err = errors.Join(ErrKeySetUnavailable, err)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch the key set from %s: %w; give the URL of a JSON Web Key Set", address, err)
	}
	return &keySet{set}, nil
}

// key returns the key that the header names. A token without a key id is accepted if exactly one
// key of the set has its algorithm.
func (s *keySet) key(ctx context.Context, h header) (key, error) {
	// The set is fetched even if the client disconnects.
	ctx = context.WithoutCancel(ctx)
	if h.KID == "" {
		return s.only(ctx, h.Alg)
	}
	// KeyfuncCtx fetches the set again if it does not have the key.
	found, err := s.set.KeyfuncCtx(ctx)(&jwt.Token{Header: map[string]any{"alg": h.Alg, "kid": h.KID}})
	if err != nil {
		return key{}, fmt.Errorf("find the key: %w", err)
	}
	described, err := s.set.Storage().KeyRead(ctx, h.KID)
	if err != nil {
		return key{}, fmt.Errorf("find the key: %w", err)
	}
	if !forSignatures(described) {
		return key{}, errPurpose
	}
	return publicKey(found)
}

var errPurpose = errors.New("the key is not meant for signatures")

// forSignatures reports whether use and key_ops, if present, allow the key to verify signatures
// (RFC 7517, 4.2 and 4.3).
func forSignatures(k jwkset.JWK) bool {
	m := k.Marshal()
	if m.USE != "" && m.USE != jwkset.UseSig {
		return false
	}
	return len(m.KEYOPS) == 0 || slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify)
}

func (s *keySet) only(ctx context.Context, alg string) (key, error) {
	all, err := s.set.Storage().KeyReadAll(ctx)
	if err != nil {
		return key{}, fmt.Errorf("read the key set: %w", err)
	}
	var only []key
	for _, candidate := range all {
		named := candidate.Marshal().ALG.String()
		if !forSignatures(candidate) || named != "" && named != alg {
			continue
		}
		found := candidate.Key()
		if private, ok := found.(interface{ Public() crypto.PublicKey }); ok {
			found = private.Public()
		}
		if k, err := publicKey(found); err == nil && k.alg == alg {
			only = append(only, k)
		}
	}
	if len(only) != 1 {
		return key{}, errors.New("the token names no key and the set does not have just one for it")
	}
	return only[0], nil
}

// maxRedirects is what net/http follows by default.
const maxRedirects = 10

func checkRedirect(next *http.Request, before []*http.Request) error {
	if len(before) >= maxRedirects {
		return errors.New("too many redirects")
	}
	if err := CheckJWKSURL(next.URL.String()); err != nil {
		return fmt.Errorf("the redirect to %s %w", next.URL.Host, err)
	}
	return nil
}
