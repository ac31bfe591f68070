// Package export streams lists as CSV and NDJSON.
//
// They are read in pages ordered by key, each in its own snapshot, and written as they are read:
// memory does not grow with the response, and no transaction outlives a page. If an export fails
// after it has begun, the response is cut off.
package export

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/httpapi"
)

const (
	// PageSize is the number of rows an export reads at a time: enough to make round trips
	// negligible, few enough to need little memory.
	PageSize = 1000
	// PageTimeout bounds the read of one page.
	PageTimeout = 10 * time.Second
)

// completeHeader is the position up to which an export is complete. It is sent as a header, for
// clients that do not read trailers, and as a trailer, which proves that the export is whole.
const completeHeader = "X-Complete-Position"

// Announce sets the header X-Complete-Position, and announces the trailer of the same name, before
// the response begins. token is the position up to which the export is complete.
func Announce(c echo.Context, token string) {
	h := c.Response().Header()
	h.Set("Trailer", completeHeader)
	h.Set(completeHeader, token)
}

// Stream responds with all rows that next returns, page by page; after is the last row of the
// previous page. The first page is read before the response begins, so that early failures have a
// proper error response.
func Stream[T any](c echo.Context, contentType string, head []byte, next func(after *T) ([]T, error), add func(b []byte, row *T) ([]byte, error)) error {
	rows, err := next(nil)
	if err != nil {
		return err
	}
	stream, err := httpapi.NewStream(c, contentType)
	if err != nil || c.Request().Method == http.MethodHead {
		return err
	}
	b := head
	for {
		for i := range rows {
			if b, err = add(b, &rows[i]); err != nil {
				return err
			}
		}
		if _, err := stream.Write(b); err != nil {
			return err
		}
		if len(rows) < PageSize {
			return nil
		}
		if err := stream.Flush(); err != nil {
			return err
		}
		b = b[:0]
		if rows, err = next(&rows[len(rows)-1]); err != nil {
			return err
		}
	}
}
