package httpapi

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

const (
	// preconnectTimeout is how long a new connection may stay silent: buyers' browsers open
	// connections ahead of the sale, and if one is closed just before the first click, the click
	// fails.
	preconnectTimeout = 30 * time.Second
	// rejectTimeout bounds the work for a connection beyond the limits.
	rejectTimeout = 100 * time.Millisecond
	// maxRejecting is the maximum number of such connections that get a response concurrently;
	// others are only closed.
	maxRejecting = 64
)

// rejection is the response on a connection beyond the limits. It is written before
// a request is read, so it has no trace id.
const rejection = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n" +
	"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: 170\r\n\r\n" + rejectionBody

const rejectionBody = `{"type":"https://dopaminestore.dev/problems/overloaded","title":"Too many requests wait","status":503,` +
	`"detail":"too many connections are open","instance":"","traceId":""}`

// limitedListener limits the number of open connections, in total and per client address, and
// refuses those beyond. A limit of 0 means no limit.
//
// Connections of trusted proxies do not count by address: they carry many clients.
type limitedListener struct {
	net.Listener
	max, maxPerAddress int
	trusted            trustedProxies
	open               prometheus.Gauge
	rejected           *prometheus.CounterVec
	rejecting          chan struct{}

	mu        sync.Mutex
	total     int
	byAddress map[netip.Addr]int
}

func limitListener(l net.Listener, limits Limits, r prometheus.Registerer) *limitedListener {
	out := &limitedListener{
		Listener: l, max: limits.MaxConnections, maxPerAddress: limits.MaxConnectionsPerAddress, trusted: limits.TrustedProxies,
		open: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: telemetry.Namespace, Subsystem: "http", Name: "connections",
			Help: "Open connections."}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: "http", Name: "rejected_connections_total",
			Help: "Connections refused because of a limit, by limit: process or address."}, []string{"limit"}),
		rejecting: make(chan struct{}, maxRejecting), byAddress: map[netip.Addr]int{},
	}
	_, _ = r.Register(out.open), r.Register(out.rejected) // two servers of one process may share a registry
	return out
}

// Accept returns the next connection within the limits.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := addressOf(conn.RemoteAddr().String())
		if limit := l.enter(addr); limit != "" {
			l.rejected.WithLabelValues(limit).Inc()
			l.reject(conn)
			continue
		}
		l.open.Inc()
		return &limitedConn{Conn: conn, accepted: time.Now(), leave: func() { l.leave(addr) }}, nil
	}
}

// enter counts a connection, or returns the limit that refuses it.
func (l *limitedListener) enter(addr netip.Addr) (limit string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counted := l.maxPerAddress > 0 && !l.trusted.contains(addr)
	switch {
	case l.max > 0 && l.total >= l.max:
		return "process"
	case counted && l.byAddress[clientKey(addr)] >= l.maxPerAddress:
		return "address"
	}
	l.total++
	if counted {
		l.byAddress[clientKey(addr)]++
	}
	return ""
}

func (l *limitedListener) leave(addr netip.Addr) {
	l.open.Dec()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.maxPerAddress > 0 && !l.trusted.contains(addr) {
		key := clientKey(addr)
		if l.byAddress[key]--; l.byAddress[key] == 0 {
			delete(l.byAddress, key)
		}
	}
}

// reject responds and closes. It first reads what the client has sent: closing with unread bytes
// would reset the connection before the client has read the response.
func (l *limitedListener) reject(conn net.Conn) {
	select {
	case l.rejecting <- struct{}{}:
	default:
		_ = conn.Close() // no caller can use the error
		return
	}
	go func() {
		defer guard.Log("wait for a connection")
		defer func() { <-l.rejecting }()
		defer conn.Close()
		if conn.SetDeadline(time.Now().Add(rejectTimeout)) != nil {
			return
		}
		var request [4 << 10]byte
		if _, err := conn.Read(request[:]); err != nil {
			return
		}
		_, _ = conn.Write([]byte(rejection)) // the client may be gone
		if half, ok := conn.(*net.TCPConn); ok {
			_ = half.CloseWrite()
			_, _ = conn.Read(request[:]) // until the client closes, or the deadline
		}
	}()
}

// limitedConn is a connection that is counted until it is closed. Until its first byte arrives it
// may stay silent for preconnectTimeout; after that the header must arrive within
// readHeaderTimeout.
type limitedConn struct {
	net.Conn
	accepted time.Time
	leave    func()
	close    sync.Once
	begun    bool // net/http reads and sets deadlines in one goroutine until the handler is called
}

// Read reads from the connection.
func (c *limitedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.begun {
		c.begun = true
		if deadline := c.Conn.SetReadDeadline(time.Now().Add(readHeaderTimeout)); err == nil {
			err = deadline
		}
	}
	return n, err
}

// SetReadDeadline sets the read deadline; it is later than t if nothing has been read so far.
func (c *limitedConn) SetReadDeadline(t time.Time) error {
	if !c.begun && !t.IsZero() && t.After(time.Now()) {
		t = c.accepted.Add(preconnectTimeout)
	}
	return c.Conn.SetReadDeadline(t)
}

// Close closes the connection. Close is idempotent for the count.
func (c *limitedConn) Close() error {
	c.close.Do(c.leave)
	return c.Conn.Close()
}

// CloseWrite allows net/http to end a response before it closes the connection.
func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(*net.TCPConn); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
