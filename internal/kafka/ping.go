package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/dopaminestore/dopamine/internal/guard"
)

// pingTimeout bounds each step of a health check: connecting, authenticating,
// and the request itself.
const pingTimeout = time.Second

// Pinger sends health checks over a connection that it keeps. Made by
// NewPinger; safe for concurrent use.
type Pinger struct {
	cluster Cluster
	cfg     *sarama.Config

	mu     sync.Mutex
	broker *sarama.Broker // nil: not connected
}

// NewPinger returns a pinger. It does not connect yet.
func NewPinger(cluster Cluster) *Pinger {
	cfg := baseConfig(cluster)
	cfg.Net.DialTimeout, cfg.Net.ReadTimeout, cfg.Net.WriteTimeout = pingTimeout, pingTimeout, pingTimeout
	return &Pinger{cluster: cluster, cfg: cfg}
}

// Ping returns nil if one of the brokers answered a request for metadata, which requires an
// authenticated connection.
func (p *Pinger) Ping(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		defer guard.Log("ping Kafka")
		done <- p.ping()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("request metadata from Kafka: %w", ctx.Err())
	}
}

func (p *Pinger) ping() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broker != nil {
		if request(p.broker, p.cfg) == nil {
			return nil
		}
		_ = p.broker.Close()
		p.broker = nil
	}
	var errs []error
	for _, addr := range p.cluster.Brokers {
		b := sarama.NewBroker(addr)
		err := b.Open(p.cfg)
		if err == nil {
			_, err = b.Connected() // waits for TLS and SASL
		}
		if err == nil {
			err = request(b, p.cfg)
		}
		if err == nil {
			p.broker = b
			return nil
		}
		_ = b.Close()
		errs = append(errs, fmt.Errorf("%s: %w", addr, Explain(err)))
	}
	return fmt.Errorf("no broker of Kafka can be used: %w", errors.Join(errs...))
}

func request(b *sarama.Broker, cfg *sarama.Config) error {
	_, err := b.GetMetadata(&sarama.MetadataRequest{Version: sarama.NewMetadataRequest(cfg.Version, nil).Version, Topics: []string{}})
	return err
}

// Close closes the connection.
func (p *Pinger) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broker == nil {
		return nil
	}
	err := p.broker.Close()
	p.broker = nil
	return err
}
