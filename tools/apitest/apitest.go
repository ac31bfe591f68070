// Package apitest provides the tests of HTTP APIs with tokens, and with checks of responses against
// the API's OpenAPI document.
package apitest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/auth"
)

// Secret signs the tokens.
var Secret = bytes.Repeat([]byte("k"), 32)

// Tokens signs and verifies tokens with Secret.
type Tokens struct {
	KeyFile  string
	Signer   *auth.Signer
	Verifier *auth.Verifier
}

// NewTokens returns Tokens whose key is in a file of the test.
func NewTokens(tb testing.TB) Tokens {
	tb.Helper()
	k := Tokens{KeyFile: filepath.Join(tb.TempDir(), "jwt.key")}
	err := os.WriteFile(k.KeyFile, Secret, 0o600)
	if err == nil {
		k.Signer, err = auth.NewSigner(auth.SignerConfig{KeyFile: k.KeyFile})
	}
	if err == nil {
		k.Verifier, err = auth.New(context.Background(), auth.Config{KeyFile: k.KeyFile})
	}
	if err != nil {
		tb.Fatalf("tokens: %v", err)
	}
	return k
}

// Sign returns a user's token, valid for an hour.
func (k Tokens) Sign(tb testing.TB, user uuid.UUID, roles auth.Roles) string {
	tb.Helper()
	token, err := k.Signer.Sign(user, roles, time.Hour)
	if err != nil {
		tb.Fatalf("sign a token: %v", err)
	}
	return token
}

// Document is an OpenAPI document with its routes.
type Document struct {
	*openapi3.T
	routes routers.Router
}

var loaded sync.Map // documents, by text

// Load parses and validates a document, once for all tests.
func Load(tb testing.TB, text []byte) Document {
	tb.Helper()
	if known, ok := loaded.Load(string(text)); ok {
		return known.(Document)
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err == nil {
		err = doc.Validate(context.Background())
	}
	if err != nil {
		tb.Fatalf("the OpenAPI document: %v", err)
	}
	doc.Servers = nil // the router would match the server named there
	routes, err := legacy.NewRouter(doc)
	if err != nil {
		tb.Fatalf("the routes of the OpenAPI document: %v", err)
	}
	document, _ := loaded.LoadOrStore(string(text), Document{doc, routes})
	return document.(Document)
}

// Operation returns the operation of a request, or nil if the document has none.
func (d Document) Operation(r *http.Request) *openapi3.Operation {
	route, _, err := d.routes.FindRoute(r)
	if err != nil {
		return nil
	}
	return route.Operation
}

// Check compares a response with the document: status, headers, and, if it is one JSON value, the body.
func (d Document) Check(r *http.Request, status int, header http.Header, body []byte) error {
	route, params, err := d.routes.FindRoute(r)
	if err != nil {
		return err
	}
	media := header.Get("Content-Type")
	err = openapi3filter.ValidateResponse(r.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
		Status:                 status,
		Header:                 header,
		Body:                   io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true,
			ExcludeResponseBody:   strings.HasPrefix(media, "text/csv") || media == "application/x-ndjson",
		},
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, body)
	}
	return nil
}
