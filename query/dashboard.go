package query

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"net/http"
	"path"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/problem"
)

// web is the dashboard: one page, its style and its scripts, as they are served.
// uplot.js and uplot.css are uPlot's (MIT, see uplot.LICENSE).
//
//go:embed web/index.html web/*.css web/*.js web/*.svg
var web embed.FS

// The page may load only what this server serves, and connect only to it.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; worker-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

type asset struct {
	content     []byte
	contentType string
	etag        string
}

// readAssets reads the embedded files, keyed by their path on the server.
func readAssets() (map[string]asset, error) {
	files, err := web.ReadDir("web")
	if err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	assets := make(map[string]asset, len(files))
	for _, f := range files {
		content, err := web.ReadFile("web/" + f.Name())
		if err != nil {
			return nil, fmt.Errorf("dashboard: %w", err)
		}
		sum := sha256.Sum256(content)
		name := "/assets/" + f.Name()
		if f.Name() == "index.html" {
			name = "/"
		}
		// The machine's own table of types is not used, so that the page is the same everywhere.
		contentType, known := contentTypes[path.Ext(f.Name())]
		if !known {
			return nil, fmt.Errorf("dashboard: %s is of no known type", f.Name())
		}
		assets[name] = asset{content, contentType, `"` + hex.EncodeToString(sum[:8]) + `"`}
	}
	return assets, nil
}

func (a *API) dashboard(c echo.Context) error {
	as, ok := a.assets[c.Request().URL.Path]
	if !ok {
		return problem.New(problem.NotFound, "no such path")
	}
	h := c.Response().Header()
	h.Set("Content-Type", as.contentType)
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cache-Control", "no-cache") // clients revalidate each time; the ETag makes that a 304
	h.Set("ETag", as.etag)
	http.ServeContent(c.Response(), c.Request(), "", time.Time{}, bytes.NewReader(as.content))
	return nil
}
