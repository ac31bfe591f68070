package httpapi

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"
)

// Shared header value; net/http only reads it.
var jsonType = []string{"application/json"}

// JSON answers with v. A nil slice is [], a nil map {}; nothing is sent where v
// cannot be encoded.
func JSON(c echo.Context, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	w := c.Response()
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}
