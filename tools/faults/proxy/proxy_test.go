package proxy_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/faults/proxy"
)

// echo answers what it is sent, and reports connections that end.
func echo(t *testing.T) (addr string, ended <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	gone := make(chan struct{}, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
				gone <- struct{}{}
			}()
		}
	}()
	return l.Addr().String(), gone
}

func dial(t *testing.T, p *proxy.Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// say sends a word and reports whether it came back in time.
func say(t *testing.T, c net.Conn, timeout time.Duration) bool {
	t.Helper()
	if _, err := c.Write([]byte("word")); err != nil {
		return false
	}
	return hear(c, timeout)
}

func hear(c net.Conn, timeout time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(timeout))
	b := make([]byte, 4)
	_, err := io.ReadFull(c, b)
	return err == nil && string(b) == "word"
}

func TestProxy(t *testing.T) {
	const short, long = 50 * time.Millisecond, 10 * time.Second
	addr, _ := echo(t)
	p, err := proxy.New(addr)
	require.NoError(t, err)
	t.Cleanup(p.Close)

	t.Run("stalled bytes are delivered after Heal", func(t *testing.T) {
		for _, d := range []proxy.Direction{proxy.ToServer, proxy.ToClient, proxy.Both} {
			c := dial(t, p)
			require.True(t, say(t, c, long))
			p.Stall(d)
			require.False(t, say(t, c, short))
			p.Heal()
			require.True(t, hear(c, long))
		}
	})
	t.Run("an orphan is silent and a new connection works", func(t *testing.T) {
		old := dial(t, p)
		require.True(t, say(t, old, long))
		p.Orphan()
		require.False(t, say(t, old, short))
		require.True(t, say(t, dial(t, p), long))
		p.Heal()
		require.False(t, say(t, old, long))
	})
	t.Run("reset and refuse", func(t *testing.T) {
		c := dial(t, p)
		require.True(t, say(t, c, long))
		before := p.Struck()
		p.Reset()
		require.False(t, say(t, c, long))
		require.Greater(t, p.Struck(), before)
		p.Refuse()
		if c, err := net.Dial("tcp", p.Addr()); err == nil { // the reset may arrive before or after Dial returns
			t.Cleanup(func() { _ = c.Close() })
			require.False(t, say(t, c, long))
		}
		p.Heal()
		require.True(t, say(t, dial(t, p), long))
	})
	t.Run("the server's side outlives its client", func(t *testing.T) {
		addr, gone := echo(t)
		p, err := proxy.New(addr)
		require.NoError(t, err)
		t.Cleanup(p.Close)
		c := dial(t, p)
		require.True(t, say(t, c, long))
		p.HoldServer()
		require.NoError(t, c.Close())
		select {
		case <-gone:
			t.Fatal("the server's connection has ended")
		case <-time.After(short):
		}
		p.Heal()
		select {
		case <-gone:
		case <-time.After(long):
			t.Fatal("the server's connection has not ended")
		}
	})
	t.Run("another target", func(t *testing.T) {
		other, _ := echo(t)
		p.Retarget(other)
		require.True(t, say(t, dial(t, p), long))
	})
}
