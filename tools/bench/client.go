package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

const acquirePath = "/v1/slots/acquire"

// call sends a JSON request and decodes the response. body and into may be nil.
func call(ctx context.Context, method, url, token string, header http.Header, body, into any) (*http.Response, error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, payload)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if into == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return resp, err
	}
	return resp, json.NewDecoder(resp.Body).Decode(into)
}

// product creates a product whose sale begins immediately, and waits until it has begun.
func (s *system) product(ctx context.Context, stock int) (uuid.UUID, error) {
	admin, err := s.token(uuid.New(), "admin")
	if err != nil {
		return uuid.Nil, err
	}
	const ahead = 500 * time.Millisecond
	var p struct{ ID uuid.UUID }
	resp, err := call(ctx, http.MethodPost, s.command+"/v1/products", admin, nil, map[string]any{
		"name": "bench", "description": "bench", "price": "10", "stock": stock,
		"saleDate": time.Now().Add(ahead).UTC().Format(time.RFC3339Nano)}, &p)
	if err != nil {
		return uuid.Nil, err
	}
	if resp.StatusCode != http.StatusCreated {
		return uuid.Nil, fmt.Errorf("make a product: status %d", resp.StatusCode)
	}
	select {
	case <-ctx.Done():
		return uuid.Nil, ctx.Err()
	case <-time.After(2 * ahead):
		return p.ID, nil
	}
}

// client is a crowd that needs little CPU, so that servers can be compared: each connection sends
// prepared requests and reads only the status of the response.
type client struct {
	conns    []net.Conn
	requests [][]byte // shared out among the connections
	next     atomic.Int64
}

// newClient opens connections to the server at base.
func newClient(base string, connections int, tokens []string, product uuid.UUID) (*client, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	c := &client{}
	body := fmt.Sprintf(`{"productId":%q}`, product)
	for _, token := range tokens {
		c.requests = append(c.requests, fmt.Appendf(nil,
			"POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			acquirePath, u.Host, token, len(body), body))
	}
	for range connections {
		conn, err := net.Dial("tcp", u.Host)
		if err != nil {
			c.close()
			return nil, err
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

func (c *client) close() {
	for _, conn := range c.conns {
		_ = conn.Close() // nothing is owed to it
	}
}

// round sends on all connections for a while and returns the responses per second.
func (c *client) round(d time.Duration) (answers int64, perSecond float64, err error) {
	var count atomic.Int64
	var all sync.WaitGroup
	errs := make([]error, len(c.conns))
	began := time.Now()
	for i, conn := range c.conns {
		all.Go(func() {
			r := bufio.NewReaderSize(conn, 2048)
			for time.Since(began) < d {
				request := c.requests[int(c.next.Add(1))%len(c.requests)]
				if _, errs[i] = conn.Write(request); errs[i] != nil {
					return
				}
				if errs[i] = skipRefusal(r); errs[i] != nil {
					return
				}
				count.Add(1)
			}
		})
	}
	all.Wait()
	return count.Load(), float64(count.Load()) / time.Since(began).Seconds(), errors.Join(errs...)
}

var (
	conflict = []byte("HTTP/1.1 409")
	length   = []byte("Content-Length: ")
)

// skipRefusal reads one response, which must be 409 with a length.
func skipRefusal(r *bufio.Reader) error {
	size := -1
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, conflict) {
			return fmt.Errorf("answered %q", line)
		}
		if len(line) == len("\r\n") {
			break
		}
		if value, ok := bytes.CutPrefix(line, length); ok {
			if size, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if size < 0 {
		return errors.New("answered without a length")
	}
	_, err := r.Discard(size)
	return err
}
