package query

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"mime"
	"net/http"
	"path"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/problem"
)

// web is the dashboard: one page, its style and its scripts, as they are served.
// uplot.js and uplot.css are uPlot's (MIT, see uplot.LICENSE).
//
//go:embed web/index.html web/*.css web/*.js
var web embed.FS

// The page runs what we serve and nothing else, and talks to us alone.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

type asset struct {
	content     []byte
	contentType string
	etag        string
}

// readAssets reads what is embedded, by its path on the server.
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
		assets[name] = asset{content, mime.TypeByExtension(path.Ext(f.Name())), `"` + hex.EncodeToString(sum[:8]) + `"`}
	}
	return assets, nil
}

func (a *API) dashboard(c echo.Context) error {
	as, ok := a.assets[c.Request().URL.Path]
	if !ok {
		return problem.New(problem.NotFound, "there is nothing at this path")
	}
	h := c.Response().Header()
	h.Set("Content-Type", as.contentType)
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache") // asked again each time, answered 304 by the ETag
	h.Set("ETag", as.etag)
	http.ServeContent(c.Response(), c.Request(), "", time.Time{}, bytes.NewReader(as.content))
	return nil
}
