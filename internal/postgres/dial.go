package postgres

import (
	"context"
	"net"
	"time"
)

// pingTimeout bounds the check of a pooled connection that was idle.
const pingTimeout = 2 * time.Second

// dial connects like pgx, but notices a peer that has disappeared: on an idle connection by
// keepalive probes, on one with unacknowledged data by a limit on how long the kernel retransmits
// (Linux' TCP_USER_TIMEOUT, tcp(7); the kernel's own limit is a quarter of an hour).
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
		Control:         limitRetransmission,
	}
	return d.DialContext(ctx, network, addr)
}
