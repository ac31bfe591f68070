package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Ping says whether one of the brokers takes connections. It opens no client: a
// health check asks every few seconds.
func Ping(ctx context.Context, cluster Cluster) error {
	var d net.Dialer
	var errs []error
	for _, b := range cluster.Brokers {
		conn, err := d.DialContext(ctx, "tcp", b)
		if err == nil {
			return conn.Close()
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("no broker of Kafka answers: %w", errors.Join(errs...))
}
