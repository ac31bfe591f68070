package httpapi

import (
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

// Stream is a response written piece by piece for as long as necessary: the server's write timeout
// applies to each piece instead of to the whole. If it or the handler returns an error, the
// connection is cut, so that the client notices that the response is incomplete.
type Stream struct {
	w       *echo.Response
	control *http.ResponseController
}

// NewStream starts the response with 200 and the content type.
func NewStream(c echo.Context, contentType string) (*Stream, error) {
	s := &Stream{w: c.Response(), control: http.NewResponseController(c.Response().Writer)}
	// A read deadline that passes would cancel the request's context.
	if err := s.control.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("lift the read deadline: %w", err)
	}
	if err := s.extend(); err != nil {
		return nil, err
	}
	s.w.Header().Set("Content-Type", contentType)
	s.w.WriteHeader(http.StatusOK)
	return s, nil
}

func (s *Stream) extend() error {
	if err := s.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("extend the write deadline: %w", err)
	}
	return nil
}

// Write adds data; it is sent when enough is buffered, or by Flush.
func (s *Stream) Write(p []byte) (int, error) {
	if err := s.extend(); err != nil {
		return 0, err
	}
	n, err := s.w.Write(p)
	if err != nil {
		return n, fmt.Errorf("write to the stream: %w", err)
	}
	return n, nil
}

// Flush sends the buffered data.
func (s *Stream) Flush() error {
	if err := s.extend(); err != nil {
		return err
	}
	if err := s.control.Flush(); err != nil {
		return fmt.Errorf("flush the stream: %w", err)
	}
	return nil
}
