package main

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

// crowdPatience bounds the wait for an event, or the end, of all streams.
const crowdPatience = time.Minute

// crowd is many clients of one stream, read by one thread with an epoll, so that they need little
// CPU compared with the server.
type crowd struct {
	epoll   int
	clients []int
	buf     []byte
	last    []byte // what one of them read last
}

func newCrowd(base, request string, n int) (_ *crowd, err error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return nil, err
	}
	to := &syscall.SockaddrInet4{Port: port, Addr: [4]byte(net.IPv4(127, 0, 0, 1).To4())}
	c := &crowd{buf: make([]byte, 64<<10)}
	if c.epoll, err = syscall.EpollCreate1(0); err != nil {
		return nil, err
	}
	for range n {
		if err := c.join(to, request); err != nil {
			c.close()
			return nil, fmt.Errorf("open stream %d of %d: %w", len(c.clients), n, err)
		}
	}
	return c, nil
}

func (c *crowd) join(to syscall.Sockaddr, request string) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	c.clients = append(c.clients, fd)
	if err := syscall.Connect(fd, to); err != nil {
		return err
	}
	if _, err := syscall.Write(fd, []byte(request)); err != nil {
		return err
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		return err
	}
	return syscall.EpollCtl(c.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)})
}

// close leaves; a second time is fine.
func (c *crowd) close() {
	if c.clients == nil {
		return
	}
	for _, fd := range append(c.clients, c.epoll) {
		_ = syscall.Close(fd) // nothing is owed to it
	}
	c.clients = nil
}

// each reads what is available until done returns true.
func (c *crowd) each(done func() bool, read func(fd int, b []byte) error) error {
	ready := make([]syscall.EpollEvent, 256)
	for deadline := time.Now().Add(crowdPatience); !done(); {
		if time.Now().After(deadline) {
			return fmt.Errorf("not all streams had what was awaited within %s", crowdPatience)
		}
		n, err := syscall.EpollWait(c.epoll, ready, 1000)
		if err != nil && err != syscall.EINTR {
			return err
		}
		for _, e := range ready[:max(n, 0)] {
			k, err := syscall.Read(int(e.Fd), c.buf)
			if err != nil && err != syscall.ECONNRESET {
				return err
			}
			if err := read(int(e.Fd), c.buf[:max(k, 0)]); err != nil {
				return err
			}
		}
	}
	return nil
}

// receive waits until each has received one event, and returns the times.
func (c *crowd) receive() ([]time.Time, error) {
	at := make([]time.Time, 0, len(c.clients))
	err := c.each(func() bool { return len(at) >= len(c.clients) }, func(_ int, b []byte) error {
		if len(b) == 0 {
			return errNoEvent
		}
		if events(b) > 0 {
			at = append(at, time.Now())
			c.last = append(c.last[:0], b...)
		}
		return nil
	})
	return at, err
}

// ends waits until each stream has ended, and returns how many did not end properly.
func (c *crowd) ends() (cut int, err error) {
	over, proper := 0, map[int]bool{}
	err = c.each(func() bool { return over >= len(c.clients) }, func(fd int, b []byte) error {
		if len(b) > 0 {
			proper[fd] = bytes.HasSuffix(b, lastChunk)
			return nil
		}
		over++
		if !proper[fd] {
			cut++
		}
		return syscall.EpollCtl(c.epoll, syscall.EPOLL_CTL_DEL, fd, nil)
	})
	return cut, err
}
