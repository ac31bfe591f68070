package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
)

// client is a user of the APIs.
type client struct {
	t      *testing.T
	sub    uuid.UUID
	token  string // "": nobody's
	header http.Header
	http   *http.Client
}

// clients makes users with a secret that the APIs verify with.
type clients struct {
	t       *testing.T
	signer  *auth.Signer
	keyFile string
	http    *http.Client
}

// secret returns the secret that tokens are signed with: the file's bytes without a newline at the
// end.
func (c *clients) secret() ([]byte, error) {
	b, err := os.ReadFile(c.keyFile)
	return bytes.TrimSuffix(b, []byte("\n")), err
}

func newClients(t *testing.T, keyFile string) *clients {
	t.Helper()
	signer, err := auth.NewSigner(auth.SignerConfig{KeyFile: keyFile})
	require.NoError(t, err)
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &clients{t: t, signer: signer, keyFile: keyFile, http: &http.Client{Transport: transport, Timeout: 30 * time.Second}}
}

func (c *clients) new(roles auth.Roles) *client { c.t.Helper(); return c.known(uuid.New(), roles) }

// known returns a client for the user with that id.
func (c *clients) known(sub uuid.UUID, roles auth.Roles) *client {
	c.t.Helper()
	token, err := c.signer.Sign(sub, roles, time.Hour)
	require.NoError(c.t, err)
	return &client{t: c.t, sub: sub, token: token, http: c.http}
}

func (c *clients) admin() *client  { return c.new(auth.Admin) }
func (c *clients) buyer() *client  { return c.new(auth.Buyer) }
func (c *clients) nobody() *client { return &client{t: c.t, http: c.http} }

// in returns the client for a subtest.
func (c *client) in(t *testing.T) *client {
	part := *c
	part.t = t
	return &part
}

// with returns a copy that sends additional headers, given as name and value.
func (c *client) with(pairs ...string) *client {
	other := *c
	other.header = c.header.Clone()
	if other.header == nil {
		other.header = http.Header{}
	}
	for i := 0; i < len(pairs); i += 2 {
		other.header.Set(pairs[i], pairs[i+1])
	}
	return &other
}

// answer is a response.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // no response
}

// object is a JSON object.
type object = map[string]any

// try sends a request and may get no response. A body that is not a string or bytes is sent as
// JSON.
func (c *client) try(method, url string, body any) answer {
	var raw []byte
	switch b := body.(type) {
	case nil:
	case string:
		raw = []byte(b)
	case []byte:
		raw = b
	default:
		var err error
		if raw, err = json.Marshal(b); err != nil {
			return answer{err: err}
		}
	}
	req, err := http.NewRequest(method, url, bytes.NewReader(raw))
	if err != nil {
		return answer{err: err}
	}
	if raw != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for name, values := range c.header {
		req.Header[name] = values
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b, err}
}

func (c *client) do(method, url string, body any) answer {
	c.t.Helper()
	a := c.try(method, url, body)
	require.NoError(c.t, a.err, "%s %s", method, url)
	return a
}

func (c *client) get(url string) answer { c.t.Helper(); return c.do(http.MethodGet, url, nil) }

// want sends a request whose response must have the status, and returns its object.
func (c *client) want(status int, method, url string, body any) (answer, object) {
	c.t.Helper()
	a := c.do(method, url, body)
	require.Equal(c.t, status, a.status, "%s %s: %s", method, url, a.body)
	return a, a.object(c.t)
}

// object decodes numbers as they were written.
func (a answer) object(t *testing.T) object {
	t.Helper()
	if len(a.body) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.UseNumber()
	var o object
	require.NoError(t, d.Decode(&o), "%s", a.body)
	return o
}

// slug returns the slug of the problem, "" if there is none.
func (a answer) slug() string {
	var p struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(a.body, &p) != nil {
		return ""
	}
	return strings.TrimPrefix(p.Type, "https://dopaminestore.dev/problems/")
}

// refused sends a request whose response must be the problem.
func (c *client) refused(status int, slug, method, url string, body any) (answer, object) {
	c.t.Helper()
	a := c.do(method, url, body)
	require.Equal(c.t, status, a.status, "%s %s: %s", method, url, a.body)
	require.Equal(c.t, slug, a.slug(), "%s %s: %s", method, url, a.body)
	return a, a.object(c.t)
}

// soon returns a sale date in the near future, in the contract's format.
func soon(in time.Duration) string {
	return time.Now().Add(in).UTC().Format("2006-01-02T15:04:05.000Z")
}

// newProduct returns the body of a product whose sale begins then.
func newProduct(stock int, saleDate string) object {
	return object{"name": "Thing", "description": "Made to be sold.", "stock": stock, "price": "259000", "saleDate": saleDate}
}

// product creates a product and returns when its sale has begun.
func (c *client) product(commandURL string, stock int) (id string) {
	c.t.Helper()
	for in := 300 * time.Millisecond; ; in *= 4 {
		a := c.do(http.MethodPost, commandURL+"/v1/products", newProduct(stock, soon(in)))
		if a.status == http.StatusBadRequest && in < time.Minute {
			continue // on a slow machine the sale date may have passed
		}
		require.Equal(c.t, http.StatusCreated, a.status, "%s", a.body)
		require.NotEmpty(c.t, a.header.Get("X-Position"))
		return a.object(c.t)["id"].(string)
	}
}

// acquire retries until the sale has begun on the gate's clock.
func (c *client) acquire(commandURL, product string) answer {
	c.t.Helper()
	again := time.NewTicker(20 * time.Millisecond) // below the rate that one buyer is allowed
	defer again.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-again.C {
		a := c.do(http.MethodPost, commandURL+"/v1/slots/acquire", object{"productId": product})
		if a.slug() != "sale-not-started" || time.Now().After(deadline) {
			return a
		}
	}
}
