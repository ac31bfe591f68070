package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// A buyer uses the drop page on a phone: countdown, buy, pay, confirm at the simulator's page,
// outcome. The next buyer finds the drop sold out.
func TestDropPage(t *testing.T) {
	testkit.Chromium(t) // without a browser nothing else is worth starting
	data, query := filepath.Join(t.TempDir(), "data"), freeAddr(t)
	db := dbtest.Both(t)
	start(t, "dev", nil, "dev", "--data", data, "--command-addr", freeAddr(t), "--query-addr", query, "--database-url", db.URL, "--redis-url", testkit.Redis(t),
		"--action-rate", "1", "--success-rate", "1", "--lost", "0", "--repeated", "0", "--reordered", "0", "--latency", "50ms", "--log-format", "json").ready()
	values, err := config.ReadEnvFile(data)
	require.NoError(t, err)
	admin := newClients(t, filepath.Join(data, "jwt.key")).admin()
	_, product := admin.want(http.StatusCreated, http.MethodPost, "http://"+values["command-addr"]+"/v1/products", newProduct(1, soon(15*time.Second)))
	url := fmt.Sprintf("http://%s/drop/%s", query, product["id"])
	shown := func(id string) string { return fmt.Sprintf(`document.getElementById(%q)?.hidden === false`, id) }

	p := openPage(t, url)
	p.size(390, 844)
	p.until(10*time.Second, "the countdown", shown("countdown"))
	p.accessible("countdown")
	p.until(30*time.Second, "the sale", shown("buy"))
	p.accessible("on sale")
	p.click("#buy-button")
	p.until(15*time.Second, "the slot and its timer", shown("held")+` && /^\d+:\d\d$/.test(document.getElementById("until-deadline").textContent)`)
	require.False(t, p.is(`document.documentElement.scrollWidth > innerWidth`), "the page is wider than the screen")
	p.accessible("slot held")

	p.click("#pay-button")
	p.until(15*time.Second, "the simulator's page", `document.title.includes("Simulated bank")`)
	p.accessible("the simulator's page")
	p.click("button[value=confirm]")
	p.until(15*time.Second, "the page again, and the outcome", `location.pathname.startsWith("/drop/") && `+shown("done"))
	require.True(t, p.is(`document.getElementById("slots").textContent.includes("paid")`))
	p.accessible("paid")
	require.True(t, p.is(`document.cookie === "" && localStorage.length === 0`))

	other := openPage(t, url)
	other.until(15*time.Second, "sold out", `document.getElementById("h-closed").textContent === "Sold out"`)
	other.accessible("sold out")
	resp, err := http.Get(url)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	require.NotContains(t, resp.Header.Get("Content-Security-Policy"), "unsafe")
}
