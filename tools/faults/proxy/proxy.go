// Package proxy is a TCP proxy that breaks connections on demand: it delays,
// stalls one or both directions, resets, refuses, and keeps a server's side open
// when a client has died, as a network does when a machine loses power.
//
// A stalled connection loses no bytes: they are delivered after Heal, as TCP
// does after a partition. [Proxy.Orphan] is the other case: connections that
// exist never move again, while new ones work.
package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Direction is which way bytes flow.
type Direction int

// Directions; Both is their sum.
const (
	ToServer Direction = 1
	ToClient Direction = 2
	Both               = ToServer | ToClient
)

// Proxy forwards connections from its address to a target. It is safe for
// concurrent use.
type Proxy struct {
	listener net.Listener

	mu       sync.Mutex
	change   chan struct{} // closed and replaced at each change of mode
	target   string
	stalled  Direction
	delay    time.Duration
	refusing bool
	holding  bool
	conns    map[*link]struct{}
	closed   bool

	wg    sync.WaitGroup
	moved atomic.Int64 // bytes forwarded
	hurt  atomic.Int64 // connections and chunks that a fault has hit
}

// link is one connection of a client with its counterpart.
type link struct {
	client, server net.Conn
	orphan         bool
}

// New listens on a free port of 127.0.0.1 and forwards to target (host:port).
func New(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{listener: l, target: target, change: make(chan struct{}), conns: map[*link]struct{}{}}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is the address for clients, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Moved is how many bytes were forwarded; Struck how often a fault hit a
// connection or a chunk.
func (p *Proxy) Moved() int64 { return p.moved.Load() }

// Struck counts the connections and chunks that were hit by a fault.
func (p *Proxy) Struck() int64 { return p.hurt.Load() }

// Forget makes Struck count from 0.
func (p *Proxy) Forget() { p.hurt.Store(0) }

// set changes the mode and wakes the waiting connections.
func (p *Proxy) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.change)
	p.change = make(chan struct{})
}

// Retarget forwards new connections to another server and resets the old ones.
func (p *Proxy) Retarget(target string) {
	p.set(func() { p.target = target })
	p.Reset()
}

// Delay holds back each chunk, in both directions.
func (p *Proxy) Delay(d time.Duration) { p.set(func() { p.delay = d }) }

// Stall stops the flow in a direction until Heal; new connections are accepted and
// stall too.
func (p *Proxy) Stall(d Direction) { p.set(func() { p.stalled = d }) }

// Refuse resets every new connection until Heal.
func (p *Proxy) Refuse() { p.set(func() { p.refusing = true }) }

// HoldServer keeps the server's side of a connection open if its client goes away,
// until Heal.
func (p *Proxy) HoldServer() { p.set(func() { p.holding = true }) }

// Orphan makes the existing connections silent forever; new ones work.
func (p *Proxy) Orphan() {
	p.set(func() {
		for l := range p.conns {
			l.orphan = true
		}
	})
}

// Reset ends every connection with RST.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.conns {
		p.hurt.Add(1)
		l.reset()
	}
}

func (l *link) reset() {
	for _, c := range []net.Conn{l.client, l.server} {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
		if c != nil {
			_ = c.Close()
		}
	}
}

// Heal ends every fault. What was stalled is delivered.
func (p *Proxy) Heal() {
	p.set(func() {
		p.stalled, p.delay, p.refusing, p.holding = 0, 0, false, false
		for l := range p.conns {
			if l.orphan { // its peers have given it up, or should have
				l.reset()
			}
		}
	})
}

// Close ends the proxy and its connections.
func (p *Proxy) Close() {
	p.set(func() { p.closed = true })
	_ = p.listener.Close()
	p.mu.Lock()
	for l := range p.conns {
		l.reset()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.wg.Go(func() { p.serve(c) })
		}
	}
}

func (p *Proxy) serve(client net.Conn) {
	l := &link{client: client}
	p.mu.Lock()
	target, refuse := p.target, p.refusing || p.closed
	p.mu.Unlock()
	if refuse {
		p.hurt.Add(1)
		l.reset()
		return
	}
	server, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		l.reset()
		return
	}
	l.server = server
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		l.reset()
		return
	}
	p.conns[l] = struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pump(l, server, client, ToServer) })
	both.Go(func() { p.pump(l, client, server, ToClient) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, l)
	p.mu.Unlock()
	_, _ = client.Close(), server.Close()
}

// pump copies one direction until it ends.
func (p *Proxy) pump(l *link, to, from net.Conn, d Direction) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !p.await(l, d) {
				return
			}
			if _, werr := to.Write(buf[:n]); werr != nil {
				if d == ToClient && !p.release(io.EOF) {
					return
				}
				_ = from.Close()
				return
			}
			p.moved.Add(int64(n))
		}
		if err != nil {
			if d == ToServer && !p.release(err) {
				return
			}
			// An end in one direction ends both: none of the protocols here half-closes.
			_, _ = to.Close(), from.Close()
			return
		}
	}
}

// release waits for Heal while the server's side is held for a client that has
// gone. It reports false if the proxy was closed.
func (p *Proxy) release(err error) bool {
	for first := true; ; first = false {
		p.mu.Lock()
		hold, change, closed := p.holding, p.change, p.closed
		p.mu.Unlock()
		if closed {
			return false
		}
		if !hold || errors.Is(err, net.ErrClosed) {
			return true
		}
		if first && errors.Is(err, io.EOF) {
			p.hurt.Add(1)
		}
		<-change
	}
}

// await waits until a chunk may pass. It reports false if it never may.
func (p *Proxy) await(l *link, d Direction) bool {
	hit := false
	for {
		p.mu.Lock()
		stop := p.stalled&d != 0 || l.orphan
		delay, change, closed := p.delay, p.change, p.closed
		p.mu.Unlock()
		if (stop || delay > 0) && !hit {
			hit = true
			p.hurt.Add(1)
		}
		switch {
		case closed:
			return false
		case stop:
			<-change
		case delay > 0:
			time.Sleep(delay)
			return true
		default:
			return true
		}
	}
}
