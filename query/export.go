package query

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// exportPage is the number of rows an export reads at a time: enough to make round trips
// negligible, few enough to need little memory.
const exportPage = 1000

// completeHeader is the position up to which an export is complete. It is sent as a header, for
// clients that do not read trailers, and as a trailer, which proves that the export is whole.
const completeHeader = "X-Complete-Position"

// announce sets the header, and announces the trailer of the same name, before the response begins.
func announce(c echo.Context, at completeness) {
	h := c.Response().Header()
	h.Set("Trailer", completeHeader)
	h.Set(completeHeader, at.token())
}

// export streams all rows that next returns, page by page; after is the last row of the previous
// page. The first page is read before the response begins, so that early failures have a proper
// error response.
func export[T any](c echo.Context, contentType string, head []byte, next func(after *T) ([]T, error), add func(b []byte, row *T) ([]byte, error)) error {
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
		if len(rows) < exportPage {
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
