// Package schemaregistry registers and reads schemas in a schema registry with Confluent's HTTP
// protocol.
package schemaregistry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
)

// callTimeout bounds one call.
const callTimeout = 3 * time.Second

// latest names the newest version of a subject to the compatibility check.
const latest = -1

// enough are the levels that promise at least that a new schema reads what the one
// before it wrote.
var enough = []sr.CompatibilityLevel{sr.CompatBackward, sr.CompatBackwardTransitive, sr.CompatFull, sr.CompatFullTransitive}

// IncompatibleError means that a schema cannot read what was written with the subject's latest one.
type IncompatibleError struct {
	Subject string
	Reasons []string // as reported by the registry
}

func (e *IncompatibleError) Error() string {
	text := "the schema of " + e.Subject + " is not BACKWARD compatible with the newest in the registry"
	if len(e.Reasons) > 0 {
		text += ": " + strings.Join(e.Reasons, "; ")
	}
	return text
}

// Client is a client of a registry. Created by New; safe for concurrent use.
type Client struct{ client *sr.Client }

// Options are the registry's address and credentials.
type Options struct {
	// URL is the registry's URL. It may contain a user and a password. Required.
	URL string
	// User and Password take precedence over those in the URL.
	User, Password string
	// TLS verifies the registry; nil: with the system's certificates.
	TLS *tls.Config
}

// New returns a client of the registry. It sends nothing yet.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, errors.New("schema registry: the URL cannot be read; give one such as http://localhost:8081") // not repeated, because it may contain a password
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = o.TLS
	opts := []sr.ClientOpt{sr.UserAgent("dopamine"), sr.HTTPClient(&http.Client{Timeout: callTimeout, Transport: transport})}
	if user := u.User; user != nil {
		if o.User == "" {
			o.User = user.Username()
			o.Password, _ = user.Password()
		}
		u.User = nil
	}
	if o.User != "" {
		opts = append(opts, sr.BasicAuth(o.User, o.Password))
	}
	client, err := sr.NewClient(append(opts, sr.URLs(strings.TrimSuffix(u.String(), "/")))...)
	if err != nil {
		return nil, fmt.Errorf("schema registry: %w", err)
	}
	return &Client{client}, nil
}

// Register registers the Avro schema under the subject and returns its id, the same one each time.
// Before that it ensures that the subject requires at least BACKWARD compatibility. If the schema
// is not compatible, the error is an *IncompatibleError and nothing was registered.
func (c *Client) Register(ctx context.Context, subject, schema string) (id int, err error) {
	avro := sr.Schema{Schema: schema, Type: sr.TypeAvro}
	err = c.demandBackward(ctx, subject)
	late := isStatus(err, http.StatusNotFound) // some registries know a level only of a subject that is there
	if err != nil && !late {
		return 0, err
	}
	check, err := c.client.CheckCompatibility(ctx, subject, latest, avro)
	switch {
	case isStatus(err, http.StatusNotFound): // the first of its subject
	case err != nil:
		return 0, fmt.Errorf("check the schema of %s: %w", subject, err)
	case !check.Is:
		return 0, &IncompatibleError{subject, check.Messages}
	}
	id, err = c.client.RegisterSchema(ctx, subject, avro, -1, -1)
	switch {
	case isStatus(err, http.StatusConflict):
		return 0, &IncompatibleError{subject, []string{err.Error()}}
	case err != nil:
		return 0, fmt.Errorf("register the schema of %s: %w", subject, err)
	}
	if late {
		// A registry that knows no level for a missing subject uses its default.
		if err := c.demandBackward(ctx, subject); err != nil && !isStatus(err, http.StatusNotFound) {
			return 0, err
		}
	}
	return id, nil
}

// demandBackward sets the subject's level, unless it promises as much already.
func (c *Client) demandBackward(ctx context.Context, subject string) error {
	if is := c.client.Compatibility(ctx, subject)[0]; is.Err == nil && slices.Contains(enough, is.Level) {
		return nil
	}
	if set := c.client.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatBackward}, subject)[0]; set.Err != nil {
		return fmt.Errorf("demand BACKWARD compatibility of %s: %w", subject, set.Err)
	}
	return nil
}

// SchemaText returns the schema with the id.
func (c *Client) SchemaText(ctx context.Context, id uint32) (string, error) {
	s, err := c.client.SchemaByID(ctx, int(id))
	return s.Schema, err
}

// isStatus reports whether the registry answered with the status.
func isStatus(err error, status int) bool {
	var answer *sr.ResponseError
	return errors.As(err, &answer) && answer.StatusCode == status
}
