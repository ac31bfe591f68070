package httpapi

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"
)

// Shared header value; net/http only reads it.
var jsonType = []string{"application/json"}

// JSON responds with v. A nil slice is encoded as [], a nil map as {}. If v cannot be encoded,
// nothing is sent.
func JSON(c echo.Context, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the response: %w", err)
	}
	w := c.Response()
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		return fmt.Errorf("write the response: %w", err)
	}
	return nil
}
