package rush

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

// answerTimeout is how long a buyer waits for a response before it counts as an error.
const answerTimeout = 15 * time.Second

// earlyClicks is the maximum number of further clicks of a buyer who came before the sale began on
// the gate's clock; earlyPause is the pause between two of them.
const (
	earlyClicks = 200
	earlyPause  = 10 * time.Millisecond
)

// attempt is one buyer's click and its result. Times are since the crowd's start, on one monotonic
// clock.
type attempt struct {
	buyer    int
	sent     time.Duration
	answered time.Duration
	latency  time.Duration // from the moment the buyer meant to click
	status   int           // 0: no response
	slug     string        // of a refusal
	err      error         // no response, or one that cannot be understood
	slot     slot          // of a grant
	position string        // X-Position
}

func (a attempt) granted() bool { return a.status == http.StatusCreated && a.err == nil }
func (a attempt) refused() bool { return a.status == http.StatusConflict && a.err == nil }

// crowd is the buyers and their open connections. Each connection is used by one worker and opened
// before the sale, as by a browser on the product's page: the click is measured, not the handshake.
type crowd struct {
	cfg     Config
	buyers  []buyer
	lines   []*line
	started time.Time
	body    []byte
}

// gather opens the connections.
func gather(ctx context.Context, cfg Config, buyers []buyer) (*crowd, error) {
	c := &crowd{cfg: cfg, buyers: buyers, started: time.Now(), lines: make([]*line, cfg.Connections)}
	const dialers = 64
	var next atomic.Int64
	var wg sync.WaitGroup
	var once sync.Once
	var failed error
	for range min(dialers, cfg.Connections) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(c.lines) || ctx.Err() != nil {
					return
				}
				l, err := newLine(cfg.CommandURLs[i%len(cfg.CommandURLs)], c.started)
				if err == nil {
					err = l.dial(ctx)
				}
				if err != nil {
					once.Do(func() { failed = fmt.Errorf("open connection %d: %w", i+1, err) })
					return
				}
				c.lines[i] = l
			}
		})
	}
	wg.Wait()
	if failed == nil {
		failed = ctx.Err()
	}
	if failed != nil {
		c.leave()
		return nil, failed
	}
	return c, nil
}

func (c *crowd) aim(product uuid.UUID) {
	c.body = fmt.Appendf(nil, `{"productId":%q}`, product)
}

func (c *crowd) leave() {
	for _, l := range c.lines {
		if l != nil {
			l.close()
		}
	}
}

// round is the result of the clicks of many buyers.
type round struct {
	attempts []attempt
	took     time.Duration
	requests int64
}

// click makes the given buyers click once each, in the given order, as fast as the connections
// allow or at the configured rate.
func (c *crowd) click(ctx context.Context, what string, buyers []int) round {
	attempts := make([]attempt, len(buyers))
	c.cfg.Progress.Begin(what, int64(len(buyers)))
	defer c.cfg.Progress.End()
	begin := time.Now()
	var next, requests atomic.Int64
	var wg sync.WaitGroup
	for _, l := range c.lines {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(buyers) {
					return
				}
				meant := time.Now()
				if c.cfg.Rate > 0 {
					meant = begin.Add(time.Duration(float64(i) / c.cfg.Rate * float64(time.Second)))
					if waitUntil(ctx, meant) != nil {
						return
					}
				}
				attempts[i] = c.one(ctx, l, buyers[i], meant, &requests)
				c.cfg.Progress.Add(1)
			}
		})
	}
	wg.Wait()
	return round{attempts: attempts, took: time.Since(begin), requests: requests.Load()}
}

// one is one buyer's click. A buyer who clicks before the sale begins clicks again.
func (c *crowd) one(ctx context.Context, l *line, buyer int, meant time.Time, requests *atomic.Int64) attempt {
	var a attempt
	for range earlyClicks {
		requests.Add(1)
		a = l.acquire(ctx, c.buyers[buyer].token, c.body)
		a.buyer = buyer
		if a.slug != "sale-not-started" || waitUntil(ctx, time.Now().Add(earlyPause)) != nil {
			break
		}
		meant = time.Now()
	}
	a.latency = time.Since(meant)
	return a
}

// line is one kept-alive connection to one command API. fasthttp writes and reads the messages; the
// connection is managed here, so that it can be opened ahead.
type line struct {
	host string
	path string
	tls  bool

	started time.Time // attempts are timed from here

	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
}

func newLine(base string, started time.Time) (*line, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("%q is not a base URL such as http://host:port", base)
	}
	l := &line{host: u.Host, path: strings.TrimSuffix(u.EscapedPath(), "/") + "/v1/slots/acquire", tls: u.Scheme == "https", started: started}
	return l, nil
}

func (l *line) dial(ctx context.Context) error {
	d := net.Dialer{Timeout: answerTimeout}
	var err error
	if l.tls {
		l.conn, err = (&tls.Dialer{NetDialer: &d}).DialContext(ctx, "tcp", withPort(l.host, "443"))
	} else {
		l.conn, err = d.DialContext(ctx, "tcp", withPort(l.host, "80"))
	}
	if err != nil {
		return err
	}
	const buffer = 2048 // enough for a request and a response; ten thousand lines must not need 100 MB
	l.r, l.w = bufio.NewReaderSize(l.conn, buffer), bufio.NewWriterSize(l.conn, buffer)
	return nil
}

func withPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(host, port)
}

func (l *line) close() {
	if l.conn != nil {
		_ = l.conn.Close() // nothing is owed to a connection we leave
		l.conn = nil
	}
}

// acquire requests a slot. A failed connection is reopened for the next buyer; this one gets no
// response, and whether it was decided is unknown.
func (l *line) acquire(ctx context.Context, token string, body []byte) (a attempt) {
	a.sent = time.Since(l.started)
	defer func() {
		a.answered = time.Since(l.started)
		if a.err != nil {
			l.close()
		}
	}()
	if l.conn == nil {
		if a.err = l.dial(ctx); a.err != nil {
			return a
		}
	}
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(http.MethodPost)
	req.Header.SetHost(l.host)
	req.Header.SetRequestURI(l.path)
	req.Header.SetContentType("application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	req.SetBodyRaw(body)
	if a.err = l.conn.SetDeadline(time.Now().Add(answerTimeout)); a.err != nil {
		return a
	}
	if a.err = req.Write(l.w); a.err != nil {
		return a
	}
	if a.err = l.w.Flush(); a.err != nil {
		return a
	}
	if a.err = resp.Read(l.r); a.err != nil {
		return a
	}
	a.status = resp.StatusCode()
	a.position = string(resp.Header.Peek("X-Position"))
	switch a.status {
	case http.StatusCreated:
		a.err = json.Unmarshal(resp.Body(), &a.slot)
	default:
		var p problem
		if a.err = json.Unmarshal(resp.Body(), &p); a.err == nil {
			a.slug = p.slug()
		}
	}
	if resp.ConnectionClose() {
		l.close()
	}
	return a
}
