package e2e

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/chromedp"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// screenshotsVariable names a folder for pictures of the page, as docs keep them.
const screenshotsVariable = "DOPAMINE_SCREENSHOTS"

// page is the dashboard in a real browser.
type page struct {
	t   *testing.T
	ctx context.Context
}

func openPage(t *testing.T, url string) *page {
	t.Helper()
	path := testkit.Chromium(t)
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	p := &page{t: t, ctx: ctx}
	p.size(1280, 900)
	p.do(chromedp.Navigate(url))
	return p
}

// in returns the page for a subtest.
func (p *page) in(t *testing.T) *page { return &page{t: t, ctx: p.ctx} }

func (p *page) do(a chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	_, err := chromedp.Run(p.ctx, a)
	require.NoError(p.t, err)
}

func (p *page) size(width, height int64) {
	p.t.Helper()
	p.do(chromedp.EmulateViewport(width, height))
}

// is evaluates a condition on the page. The browser's debugger runs it, to which the page's content
// policy does not apply.
func (p *page) is(js string) bool {
	p.t.Helper()
	yes, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](js))
	require.NoError(p.t, err, js)
	return yes
}

func (p *page) until(within time.Duration, what, js string) {
	p.t.Helper()
	testkit.EventuallyTrue(p.t, within, what, func() bool { return p.is(js) })
}

func (p *page) fill(id, value string) {
	p.t.Helper()
	p.do(chromedp.SetValue(chromedp.CSS("#"+id), value))
}

func (p *page) click(selector string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.CSS(selector)))
}

func (p *page) picture(name string) {
	p.t.Helper()
	dir := os.Getenv(screenshotsVariable)
	if dir == "" {
		return
	}
	require.True(p.t, p.is(`scrollTo(0, 0); document.activeElement.blur(); true`))
	png, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	require.NoError(p.t, err)
	require.NoError(p.t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
}

// accessible checks the page, in its current state, against WCAG 2.1 AA with axe.
func (p *page) accessible(what string) {
	p.t.Helper()
	axe, err := os.ReadFile("testdata/axe.min.js")
	require.NoError(p.t, err)
	if !p.is("typeof axe !== 'undefined'") {
		require.True(p.t, p.is(string(axe)+"; true"))
	}
	found, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](
		`axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}).then(r => JSON.stringify(r.violations.map(v => v.id + ": " + v.nodes.map(n => n.html).join(" "))))`, chromedp.EvalAwaitPromise))
	require.NoError(p.t, err)
	require.Equal(p.t, "[]", found, "accessibility, %s", what)
}

func TestDashboard(t *testing.T) {
	data, query := filepath.Join(t.TempDir(), "data"), freeAddr(t)
	testkit.Chromium(t) // without a browser nothing else is worth starting
	db := dbtest.Both(t)
	dev := start(t, "dev", nil, "dev", "--data", data, "--command-addr", freeAddr(t), "--query-addr", query,
		"--database-url", db.URL, "--redis-url", testkit.Redis(t), "--slot-ttl", "4m", "--slot-warning", "2m", "--log-format", "json").ready()
	users := newClients(t, filepath.Join(data, "jwt.key"))
	admin, buyer := users.admin(), users.buyer()
	values, err := config.ReadEnvFile(data)
	require.NoError(t, err)
	command := "http://" + values["command-addr"]

	p := openPage(t, "http://"+query+"/")
	var product, slot string // with a payment of the buyer
	for _, stage := range []struct {
		name string
		run  func(t *testing.T, p *page)
	}{
		{"the sign-in refuses an invalid token", func(t *testing.T, p *page) {
			p.until(10*time.Second, "the sign-in", `!document.getElementById("signin-box").hidden`)
			p.accessible("before signing in")
			p.fill("token", "nonsense")
			p.click("#signin button[type=submit]")
			p.until(5*time.Second, "a message about the token", `document.getElementById("signin-error").textContent !== ""`)
			require.True(t, p.is(`document.getElementById("now").hidden`))
		}},
		{"the board is live and the token stays in the page", func(t *testing.T, p *page) {
			p.fill("token", admin.token)
			p.click("#signin button[type=submit]")
			p.until(10*time.Second, "the live board", `document.getElementById("conn").dataset.state === "live" && !document.getElementById("now").hidden`)
			require.False(t, p.is(`document.cookie !== "" || localStorage.length + sessionStorage.length > 0`), "the token stays in the page")
		}},
		{"a rush is shown live", func(t *testing.T, p *page) {
			rush := start(t, "rush", nil, "rush", "--data", data, "--buyers", "20000", "--stock", "300", "--connections", "50", "--json")
			p.until(60*time.Second, "grants on the board", `series[2].some(n => n > 0)`)
			p.until(60*time.Second, "refusals on the board", `series[1].some(n => n > 0)`)
			p.until(60*time.Second, "the product to be sold out", `[...document.querySelectorAll("#products tr")].some(r => r.textContent.includes("Rush of 20000") && r.querySelector(".SOLD_OUT"))`)
			require.Equal(t, 0, rush.wait(2*time.Minute), "the rush's exit status")
		}},
		{"the audit shows the trail of a slot", func(t *testing.T, p *page) {
			admin, buyer := admin.in(t), buyer.in(t)
			product = admin.product(command, 3)
			acquired := buyer.acquire(command, product)
			require.Equal(t, http.StatusCreated, acquired.status, "%s", acquired.body)
			slot = acquired.object(t)["id"].(string)
			buyer.want(http.StatusCreated, http.MethodPost, command+"/v1/payments", object{
				"purchaseSlotId": slot, "idempotencyKey": uuid.NewString(), "amount": "259000", "currency": "KRW", "paymentMethod": "CARD"})
			p.fill("audit-id", slot)
			testkit.EventuallyTrue(t, 15*time.Second, "the slot's trail", func() bool {
				p.click("#audit-form button[type=submit]")
				return p.is(`["SlotAcquired", "PaymentInitiated"].every(e => document.getElementById("audit").textContent.includes(e))`)
			})
		}},
		{"a payment appears in the purchases of an open page", func(t *testing.T, p *page) {
			p.until(15*time.Second, "the payment", fmt.Sprintf(`document.getElementById("purchases").textContent.includes(%q)`, slot[:8]))
			require.True(t, p.is(`document.getElementById("purchases-read").textContent.startsWith("Read at ")`))
		}},
		{"the decision log of a product folds", func(t *testing.T, p *page) {
			p.click(fmt.Sprintf(`#products tr[data-id=%q] button`, product))
			p.until(15*time.Second, "the fold", `document.getElementById("fair-verdict").textContent.includes("The log folds")`)
		}},
		{"the purchases are downloaded as CSV", func(t *testing.T, p *page) {
			p.downloads(slot)
		}},
		{"a name is shown as text and leaves room for the other columns", func(t *testing.T, p *page) {
			admin := admin.in(t)
			for _, name := range []string{strings.Repeat("W", 200), `<img src=x onerror="document.body.remove()">`} {
				odd := newProduct(5, soon(300*time.Millisecond))
				odd["name"] = name
				_, made := admin.want(http.StatusCreated, http.MethodPost, command+"/v1/products", odd)
				row := fmt.Sprintf(`document.querySelector("#products tr[data-id='%s']")`, made["id"])
				p.until(10*time.Second, "the name", fmt.Sprintf(`%s?.querySelector("button.name").textContent === %q`, row, name))
				require.True(t, p.is(row+`.offsetHeight < 60`), "%s", name)
				require.Equal(t, http.StatusNoContent, admin.do(http.MethodDelete, command+"/v1/products/"+made["id"].(string), nil).status)
			}
			require.True(t, p.is(`document.querySelector("main img") === null`))
		}},
		{"the page is accessible in both themes and on a phone", func(t *testing.T, p *page) {
			// The rush is what the screenshots show: its charts, its fold, its expiring slots.
			rushed := `[...document.querySelectorAll("#products tr")].find(r => r.textContent.includes("Rush of 20000"))`
			require.True(t, p.is(rushed+`.querySelector("button.name").click(), true`))
			p.until(15*time.Second, "the fold of the rush", `document.getElementById("fair-verdict").textContent.includes("20,0")`)
			p.until(15*time.Second, "slots that end soon", `document.querySelectorAll("#expiring tr").length === 20`)
			require.True(t, p.is(`document.getElementById("pur-product").value = ""; true`))
			p.click("#purchases-form button[type=submit]")
			if os.Getenv(screenshotsVariable) != "" {
				p.until(time.Minute, "a rush that is seen whole", `series[0].length > 20`)
			}
			for _, look := range []struct {
				name          string
				dark          bool
				width, height int64
			}{{"light", false, 1280, 900}, {"dark", true, 1280, 900}, {"phone", true, 390, 844}, {"phone-light", false, 390, 844}} {
				p.size(look.width, look.height)
				require.True(t, p.is(fmt.Sprintf(`setTheme(%t); dispatchEvent(new Event("resize")); true`, look.dark)))
				p.until(10*time.Second, "the fold again", `document.getElementById("fair-verdict").textContent.includes("The log folds")`)
				p.accessible(look.name)
				p.picture(look.name)
				require.True(t, p.is(`["now", "products-box", "expiring-box", "audit-box", "fairness-box", "purchases-box"].every(id => document.getElementById(id).offsetHeight > 60)`), look.name)
				require.False(t, p.is(`document.documentElement.scrollWidth > innerWidth`), "%s: the page is wider than the screen", look.name)
			}
			p.size(1280, 900)
		}},
		{"everything can be reached from the keyboard", func(t *testing.T, p *page) {
			require.True(t, p.is(`document.activeElement?.blur(); scrollTo(0, 0); true`))
			require.True(t, p.is(`[...document.querySelectorAll("a, button, input, select")].every(e => e.tabIndex >= 0)`))
		}},
		{"a break of the log is shown", func(t *testing.T, p *page) {
			dbtest.Exec(t, db.Pool, `UPDATE gate_decisions SET units = units + 1 WHERE type = 'opened' AND product_id = (
				SELECT product_id FROM gate_decisions GROUP BY product_id ORDER BY count(*) DESC LIMIT 1)`)
			p.click("#fair-form button[type=submit]")
			p.until(15*time.Second, "the break", `document.getElementById("fair-verdict").className === "bad" && document.querySelectorAll("#fair-breaks li").length > 0`)
			p.accessible("a break")
			p.picture("break")
		}},
		{"the page continues after the server has restarted", func(t *testing.T, p *page) {
			dev.stop()
			p.until(20*time.Second, "the page to notice that the server has stopped", `document.getElementById("conn").dataset.state === "lost"`)
			p.picture("lost")
			dev.start()
			dev.ready()
			p.until(30*time.Second, "the page to come back", `document.getElementById("conn").dataset.state === "live"`)
			p.until(10*time.Second, "new figures", `series[0].length > 0 && Date.now() / 1000 - series[0].at(-1) < 5`)
		}},
		{"a buyer sees their own slots and nothing else", func(t *testing.T, p *page) {
			admin, buyer := admin.in(t), buyer.in(t)
			p.click("#signout")
			p.until(5*time.Second, "the sign-in again", `!document.getElementById("signin-box").hidden && document.getElementById("audit").children.length === 0`)
			p.fill("token", buyer.token)
			p.click("#signin button[type=submit]")
			p.until(10*time.Second, "the buyer's payment", `document.querySelectorAll("#purchases tr").length === 1`)
			require.True(t, p.is(`["now", "audit-box", "expiring-box"].every(id => document.getElementById(id).hidden)`))
			had := p.is(`document.querySelectorAll("#my-slots tr").length === 1`) // the slot whose payment failed
			again := admin.product(command, 3)
			require.Equal(t, http.StatusCreated, buyer.acquire(command, again).status)
			p.until(10*time.Second, "the buyer's new slot", fmt.Sprintf(`document.querySelectorAll("#my-slots tr").length > Number(%t)`, had))
			p.accessible("a buyer")
			p.picture("buyer")
		}},
	} {
		if !t.Run(stage.name, func(t *testing.T) { stage.run(t, p.in(t)) }) {
			return // each stage continues with the page of the one before
		}
	}
}

// downloads takes the CSV of the purchases as a person would, by its button.
func (p *page) downloads(slot string) {
	p.t.Helper()
	dir := p.t.TempDir()
	_, err := chromedp.CallBrowser(p.ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{Behavior: "allow", DownloadPath: dir})
	require.NoError(p.t, err)
	p.click("#csv")
	var rows [][]string
	testkit.Eventually(p.t, 10*time.Second, "the CSV", func() error {
		f, err := os.Open(filepath.Join(dir, "purchases.csv"))
		if err != nil {
			return err
		}
		defer f.Close()
		if rows, err = csv.NewReader(f).ReadAll(); err == nil && len(rows) == 0 {
			err = errors.New("nothing is written yet")
		}
		return err
	})
	require.Equal(p.t, "id,purchaseSlotId", strings.Join(rows[0][:2], ","))
	require.Len(p.t, rows, 2)
	require.Equal(p.t, slot, rows[1][1])
}
