package query_test

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// benchStreams is how many streams BenchmarkProductStreams holds open.
const benchStreams = 10_000

// BenchmarkProductStreams holds 10,000 streams of one product open, changes the
// product each second, and shows how long after the change was committed the
// streams' clients had it, what the change took of all cores, the idle streams'
// share of one core, and the memory of a stream. The clients are in the same
// process: one thread with an epoll, so that memory is the server's, while times
// and CPU hold the clients' share too.
func BenchmarkProductStreams(b *testing.B) {
	w := newWorld(b)
	shoe := w.product(1, product{stock: 5, total: 10_000_000})
	place := int64(1)
	w.applied(shoe, place, "products")
	before := memoryInUse()
	streams := roomFor(b, benchStreams)
	crowd := newCrowd(b, w.url, "/v1/products/"+shoe.String()+"/stream", streams)
	crowd.receive(b)
	perStream := float64(memoryInUse()-before) / float64(streams)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()

	const quiet = 3 // seconds
	<-tick.C
	idle := cpuTime(b)
	for range quiet {
		<-tick.C
	}
	idle = cpuTime(b) - idle

	var took []time.Duration
	var busy time.Duration
	for b.Loop() {
		<-tick.C
		place++
		w.exec(`UPDATE products_g1 SET stock = $2, last_position = $3 WHERE id = $1`, shoe, place, place)
		used := cpuTime(b)
		w.applied(shoe, place, "products")
		changed := time.Now()
		for _, at := range crowd.receive(b) {
			took = append(took, at.Sub(changed))
		}
		busy += cpuTime(b) - used
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op") // mostly the ticker's
	b.ReportMetric(float64(streams), "streams")
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Milliseconds()), "p99-ms")
	b.ReportMetric(float64(busy.Milliseconds())/float64(b.N), "cpu-ms/change")
	b.ReportMetric(100*idle.Seconds()/quiet, "idle-%cpu")
	b.ReportMetric(perStream/1024, "KiB/stream")
}

// roomFor is n, or as many streams as this process may have files open for, two
// for each: the hard limit is raised where we may.
func roomFor(b *testing.B, n int) int {
	b.Helper()
	const others = 200
	var limit syscall.Rlimit
	require.NoError(b, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	if wanted := uint64(2*n + others); limit.Cur < wanted {
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: wanted, Max: max(wanted, limit.Max)}) == nil {
			return n
		}
	}
	return min(n, int(limit.Cur-others)/2)
}

// memoryInUse is heap and stacks after a collection, in bytes.
func memoryInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// cpuTime is what this process has used of all cores.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// crowd is many clients of one stream, read by one thread.
type crowd struct {
	epoll   int
	clients []int
	buf     []byte
}

func newCrowd(b *testing.B, server, path string, n int) *crowd {
	b.Helper()
	u, err := url.Parse(server)
	require.NoError(b, err)
	port, err := strconv.Atoi(u.Port())
	require.NoError(b, err)
	to := &syscall.SockaddrInet4{Port: port, Addr: [4]byte(net.IPv4(127, 0, 0, 1).To4())}
	c := &crowd{buf: make([]byte, 64<<10)}
	c.epoll, err = syscall.EpollCreate1(0)
	require.NoError(b, err)
	b.Cleanup(func() {
		for _, fd := range append(c.clients, c.epoll) {
			_ = syscall.Close(fd)
		}
	})
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, u.Host)
	for range n {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		require.NoError(b, err)
		c.clients = append(c.clients, fd)
		require.NoError(b, syscall.Connect(fd, to))
		_, err = syscall.Write(fd, request)
		require.NoError(b, err)
		require.NoError(b, syscall.SetNonblock(fd, true))
		require.NoError(b, syscall.EpollCtl(c.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}))
	}
	return c
}

// receive reads until each client has had one event, and says when each had it.
func (c *crowd) receive(b *testing.B) []time.Time {
	b.Helper()
	at := make([]time.Time, 0, len(c.clients))
	ready := make([]syscall.EpollEvent, 256)
	deadline := time.Now().Add(time.Minute)
	for len(at) < len(c.clients) {
		require.True(b, time.Now().Before(deadline), "%d of %d clients had the event", len(at), len(c.clients))
		n, err := syscall.EpollWait(c.epoll, ready, 1000)
		if err == syscall.EINTR {
			continue
		}
		require.NoError(b, err)
		for _, e := range ready[:n] {
			k, err := syscall.Read(int(e.Fd), c.buf)
			require.NoError(b, err)
			require.Positive(b, k, "a stream ended")
			for range bytes.Count(c.buf[:k], []byte("event: product")) {
				at = append(at, time.Now())
			}
		}
	}
	return at
}
