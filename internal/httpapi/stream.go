package httpapi

import (
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

// Stream is an answer written piece by piece for as long as it takes: the server's
// write timeout holds for each piece instead of for the whole. An error from it, or
// returned by the handler, cuts the connection, so that the client sees that the
// answer is not whole.
type Stream struct {
	w       *echo.Response
	control *http.ResponseController
}

// NewStream begins the answer with 200 and the content type.
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

// Write adds a piece; it is sent when enough has come together, or by Flush.
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

// Flush sends what was written.
func (s *Stream) Flush() error {
	if err := s.extend(); err != nil {
		return err
	}
	if err := s.control.Flush(); err != nil {
		return fmt.Errorf("flush the stream: %w", err)
	}
	return nil
}
