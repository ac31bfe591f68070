package devservices

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

const (
	// lowestPort and highestPort bound the ports that servers get: above the well
	// known ones, below Linux's range for outgoing connections.
	lowestPort, highestPort = 10000, 32767
	// portAttempts is how many times a server is started if its port was taken between the check
	// and its bind.
	portAttempts = 10
)

// handedOut prevents two services of one process from getting the same port before either has bound
// it.
var handedOut struct {
	sync.Mutex
	ports map[int]bool
}

// FreePort returns a port on 127.0.0.1, below 32768, on which no process listens at the moment. It
// never returns the same port twice in a process.
func FreePort() (int, error) {
	handedOut.Lock()
	defer handedOut.Unlock()
	if handedOut.ports == nil {
		handedOut.ports = map[int]bool{}
	}
	for range 1000 {
		port := lowestPort + rand.IntN(highestPort-lowestPort+1)
		if handedOut.ports[port] {
			continue
		}
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return 0, fmt.Errorf("free port: %w", err)
		}
		handedOut.ports[port] = true
		return port, nil
	}
	return 0, errors.New("free port: none found on 127.0.0.1 between 10000 and 32767")
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// onFreePort runs start with different free ports until start no longer reports that the port was
// taken. If asked is set, only that port is tried.
func onFreePort(asked int, start func(port int) (taken bool, err error)) error {
	if asked != 0 {
		_, err := start(asked)
		return err
	}
	var last error
	for range portAttempts {
		port, err := FreePort()
		if err != nil {
			return err
		}
		taken, err := start(port)
		if err == nil || !taken {
			return err
		}
		last = err
	}
	return fmt.Errorf("%d ports were taken one after the other: %w", portAttempts, last)
}
