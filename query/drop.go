package query

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"path"
	"regexp"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/problem"
)

// dropFiles are the example of a buyer's page: one page, its style and its scripts.
//
//go:embed drop/drop.html drop/drop.css drop/drop.js drop/api.js
var dropFiles embed.FS

var dropPage = template.Must(template.ParseFS(dropFiles, "drop/drop.html"))

// Drop makes the query API serve GET /drop/{product}, an example of a buyer's page. Every visitor
// of the page gets a buyer's token, so it is for `dev` only.
type Drop struct {
	// CommandPort is the command API's port. The host is the one that served the page.
	CommandPort string
	// Token returns a token for a new buyer.
	Token func() (string, error)
}

// dropConfig is the configuration that the page reads.
type dropConfig struct {
	CommandURL string `json:"commandUrl"`
	Token      string `json:"token"`
}

// hostname matches Host headers that may be copied into a content policy.
var hostname = regexp.MustCompile(`^[A-Za-z0-9.-]+$`)

func (a *API) dropRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: http.MethodGet, Path: "/drop/:product", Access: httpapi.Public, Handler: a.getDrop},
		{Method: http.MethodGet, Path: "/drop/assets/:file", Access: httpapi.Public, Handler: a.getDropAsset},
	}
}

func (a *API) getDrop(c echo.Context) error {
	if _, err := uuid.Parse(c.Param("product")); err != nil {
		return problem.New(problem.NotFound, "no such path")
	}
	host, _, err := net.SplitHostPort(c.Request().Host)
	if err != nil || !hostname.MatchString(host) {
		host = "127.0.0.1"
	}
	token, err := a.drop.Token()
	if err != nil {
		return fmt.Errorf("make a token for the drop page: %w", err)
	}
	config := dropConfig{CommandURL: "http://" + net.JoinHostPort(host, a.drop.CommandPort), Token: token}
	encoded, err := json.Marshal(config)
	if err != nil {
		return err
	}
	var page bytes.Buffer
	// JSON from json.Marshal contains no < or >, so it cannot end the script element.
	if err := dropPage.Execute(&page, map[string]any{"Config": template.JS(encoded)}); err != nil {
		return err
	}
	h := c.Response().Header()
	pageHeaders(h, "connect-src 'self' "+config.CommandURL)
	h.Set("Cache-Control", "no-store")
	return c.HTMLBlob(http.StatusOK, page.Bytes())
}

func (a *API) getDropAsset(c echo.Context) error {
	name := c.Param("file")
	content, err := dropFiles.ReadFile("drop/" + path.Base(name))
	contentType := contentTypes[path.Ext(name)]
	if err != nil || path.Ext(name) == ".html" || contentType == "" {
		return problem.New(problem.NotFound, "no such path")
	}
	pageHeaders(c.Response().Header(), "connect-src 'none'")
	c.Response().Header().Set("Cache-Control", "no-cache")
	return c.Blob(http.StatusOK, contentType, content)
}

// pageHeaders allow a page to load only what this server serves.
func pageHeaders(h http.Header, connect string) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+connect+"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
}
