package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
)

// Piece is a unit of output of a Live. It is encoded once and sent to any number of clients, to
// each by one write of the same bytes.
type Piece struct {
	framed []byte // as a chunk of HTTP/1.1
	head   int    // offset of its content
}

const (
	crlf = "\r\n"
	// lastChunk marks the end of a complete response.
	lastChunk = "0" + crlf + crlf
)

// NewPiece copies b, which must not be empty: an empty chunk would end the response.
func NewPiece(b []byte) Piece {
	size := strconv.FormatInt(int64(len(b)), 16)
	framed := make([]byte, 0, len(size)+len(b)+2*len(crlf))
	framed = append(append(framed, size...), crlf...)
	return Piece{framed: append(append(framed, b...), crlf...), head: len(size) + len(crlf)}
}

// Bytes returns the content that clients read; it must not be modified.
func (p Piece) Bytes() []byte { return p.framed[p.head : len(p.framed)-len(crlf)] }

// Live is a response that continues until its client disconnects, its time is over or the server
// stops: a stream of events. Thousands of them are open at a time, so each is a connection taken
// over from net/http, without its buffers, and two small goroutines: one writes, the other waits
// for the client to disconnect.
type Live struct {
	server *Server
	conn   net.Conn
	plain  bool // HTTP/1.0 knows no chunks
	ctx    context.Context
	cancel context.CancelFunc
}

// GoLive responds with 200, the content type and the headers that are set, and calls run to write
// the body, in a goroutine that outlives the handler: neither may use the request after GoLive. The
// response ends with run. If run returns an error, the connection is cut, so that the client
// notices that the response is incomplete. Done is closed at until at the latest; the zero time
// means never. If GoLive returns an error, run is not called.
func GoLive(c echo.Context, contentType string, until time.Time, run func(*Live) error) error {
	rc, r, w := requestOf(c), c.Request(), c.Response()
	s := rc.server
	l := &Live{server: s, plain: !r.ProtoAtLeast(1, 1)}
	w.Header().Set("Content-Type", contentType)
	head, err := l.head(w.Header())
	if err != nil {
		return err
	}
	s.lives.Add(1) // while net/http still counts the request, so that the server's end waits for one or the other
	conn, _, err := http.NewResponseController(w.Writer).Hijack()
	if err != nil {
		s.lives.Done()
		return fmt.Errorf("take over the connection: %w", err)
	}
	l.conn = conn
	if until.IsZero() {
		l.ctx, l.cancel = context.WithCancel(context.Background())
	} else {
		l.ctx, l.cancel = context.WithDeadline(context.Background(), until)
	}
	s.keep(l)
	go l.serve(head, run)
	return nil
}

// head returns the response's status line and headers.
func (l *Live) head(h http.Header) ([]byte, error) {
	var b bytes.Buffer
	if l.plain {
		b.WriteString("HTTP/1.0 200 OK" + crlf)
	} else {
		b.WriteString("HTTP/1.1 200 OK" + crlf)
		h.Set("Transfer-Encoding", "chunked")
	}
	h.Set("Connection", "close")
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	if err := h.Write(&b); err != nil {
		return nil, fmt.Errorf("write the headers: %w", err)
	}
	b.WriteString(crlf)
	return b.Bytes(), nil
}

// serve owns the connection.
func (l *Live) serve(head []byte, run func(*Live) error) {
	defer l.server.lives.Done()
	defer l.server.forget(l)
	defer l.conn.Close()
	defer l.cancel()
	l.server.lives.Go(l.watch)
	if l.send(head) != nil {
		l.cancel() // its client is gone, and run finds out
	}
	if err := l.guard(run); err != nil {
		l.server.log.Error("a stream failed", "error", err)
		return
	}
	if !l.plain {
		_ = l.send([]byte(lastChunk)) // its client may be gone
	}
}

// guard turns a panic into an error: it ends this response, not the process.
func (l *Live) guard(run func(*Live) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return run(l)
}

// watch waits for the client to disconnect. If the client sends data, only a write can detect the
// disconnection from then on.
func (l *Live) watch() {
	var one [1]byte
	if _, err := l.conn.Read(one[:]); err != nil {
		l.cancel()
	}
}

func (l *Live) send(b []byte) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("extend the write deadline: %w", err)
	}
	if _, err := l.conn.Write(b); err != nil {
		return fmt.Errorf("write to the stream: %w", err)
	}
	return nil
}

// Write sends a piece. It fails with os.ErrDeadlineExceeded if the client accepts no data for the
// server's write timeout.
func (l *Live) Write(p Piece) error {
	if l.plain {
		return l.send(p.Bytes())
	}
	return l.send(p.framed)
}

// Done is closed when the client has left or the time is over.
func (l *Live) Done() <-chan struct{} { return l.ctx.Done() }

// Stopping is closed when the server stops; run has to return then.
func (l *Live) Stopping() <-chan struct{} { return l.server.stopping }

// keep registers an open response, for cutOff.
func (s *Server) keep(l *Live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[l] = struct{}{}
}

func (s *Server) forget(l *Live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, l)
}

// endLives waits until all open responses have ended. When ctx ends it cuts off the remaining ones.
func (s *Server) endLives(ctx context.Context) {
	cut := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for l := range s.open {
			_ = l.conn.Close() // its goroutines find out
		}
	})
	defer cut()
	s.lives.Wait()
}
