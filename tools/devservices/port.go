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
	// portTries is how often a server is started anew when its port was taken
	// between our look and its bind.
	portTries = 10
)

// handedOut keeps two services of one process from being given the same port
// before either has bound it.
var handedOut struct {
	sync.Mutex
	ports map[int]bool
}

// FreePort gives a port on 127.0.0.1 that nobody listens on just now, below
// 32768, and never the same one twice in a process.
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

// onFreePort runs start with one free port after the other while start says
// that the port was taken. A port that is asked for is tried alone.
func onFreePort(asked int, start func(port int) (taken bool, err error)) error {
	if asked != 0 {
		_, err := start(asked)
		return err
	}
	var last error
	for range portTries {
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
	return fmt.Errorf("%d ports were taken one after the other: %w", portTries, last)
}
