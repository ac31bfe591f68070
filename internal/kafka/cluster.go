package kafka

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

// Cluster has the addresses of a Kafka cluster and how to authenticate. If TLS and SASL are nil,
// connections are plaintext and unauthenticated.
type Cluster struct {
	// Brokers are the addresses to bootstrap from, host:port.
	Brokers []string
	// TLS configures TLS, nil for plaintext connections.
	TLS *tls.Config
	// SASL authenticates each connection, nil if the brokers require no authentication.
	SASL *SASL
}

// SASL is a mechanism with its user and password.
type SASL struct {
	Mechanism string // one of Mechanisms
	User      string
	Password  string
}

// Mechanisms are the SASL mechanisms that SASL accepts.
var Mechanisms = []string{sarama.SASLTypePlaintext, sarama.SASLTypeSCRAMSHA256, sarama.SASLTypeSCRAMSHA512}

// Check returns an error if the mechanism is unknown or the credentials are
// incomplete.
func (s SASL) Check() error {
	switch {
	case !slices.Contains(Mechanisms, s.Mechanism):
		return fmt.Errorf("SASL mechanism %q is not supported, use one of %s", s.Mechanism, strings.Join(Mechanisms, ", "))
	case s.User == "" || s.Password == "":
		return fmt.Errorf("SASL mechanism %s needs a user and a password", s.Mechanism)
	}
	return nil
}

// configure adds TLS and SASL to a sarama configuration.
func (c Cluster) configure(cfg *sarama.Config) {
	if c.TLS != nil {
		cfg.Net.TLS.Enable, cfg.Net.TLS.Config = true, c.TLS.Clone()
	}
	if c.SASL == nil {
		return
	}
	cfg.Net.SASL.Enable = true
	cfg.Net.SASL.Mechanism = sarama.SASLMechanism(c.SASL.Mechanism)
	cfg.Net.SASL.User, cfg.Net.SASL.Password = c.SASL.User, c.SASL.Password
	switch c.SASL.Mechanism {
	case sarama.SASLTypeSCRAMSHA256:
		cfg.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA256} }
	case sarama.SASLTypeSCRAMSHA512:
		cfg.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA512} }
	}
}

// scramClient is sarama's SCRAMClient over xdg-go/scram (RFC 5802, RFC 7677).
type scramClient struct {
	hash         scram.HashGeneratorFcn
	conversation *scram.ClientConversation
}

func (c *scramClient) Begin(user, password, authzID string) error {
	client, err := c.hash.NewClient(user, password, authzID)
	if err != nil {
		return fmt.Errorf("prepare SCRAM credentials: %w", err)
	}
	c.conversation = client.NewConversation()
	return nil
}

func (c *scramClient) Step(challenge string) (string, error) { return c.conversation.Step(challenge) }

func (c *scramClient) Done() bool { return c.conversation.Done() }

// AuthError means that the brokers refused the credentials, or that a client
// certificate is required: retrying does not help.
type AuthError struct{ Err error }

func (e *AuthError) Error() string { return "the brokers refused our credentials: " + e.Err.Error() }

func (e *AuthError) Unwrap() error { return e.Err }

// Explain returns err as an *AuthError if the brokers refused the credentials.
func Explain(err error) error {
	var known *AuthError
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, sarama.ErrSASLAuthenticationFailed), errors.Is(err, sarama.ErrUnsupportedSASLMechanism):
		return &AuthError{err}
	}
	return err
}
