package gatewaysim

import (
	"html/template"
	"net/http"

	"github.com/dopaminestore/dopamine/internal/gateway"
)

// actionHTML is the page on which a buyer confirms a payment, like a bank's.
var actionHTML = template.Must(template.New("action").Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}} · Simulated bank</title>
<style>
body { font: 1.1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 28rem; padding: 1.5rem; color: #1b1b1b; background: #fff }
button { font: inherit; min-height: 3rem; width: 100%; margin-top: .75rem; border-radius: .5rem; border: 2px solid #1b4d8f; background: #fff; color: #1b4d8f }
button[value=confirm] { background: #1b4d8f; color: #fff }
</style>
</head>
<body>
<main>
<h1>{{.Title}}</h1>
{{if .Amount}}<p>Pay <strong>{{.Amount}} {{.Currency}}</strong>? No money is moved.</p>
<form method="post">
<button name="decision" value="confirm">Confirm</button>
<button name="decision" value="decline">Decline</button>
</form>{{else}}<p>{{.Text}}</p>{{end}}
</main>
</body>
</html>
`))

type actionView struct{ Title, Amount, Currency, Text string }

func (s *Server) actionPage(w http.ResponseWriter, r *http.Request) {
	p, ok := s.byCharge(r.PathValue("payment"))
	switch {
	case !ok:
		page(w, http.StatusNotFound, actionView{Title: "Unknown payment", Text: "There is no payment at this address."})
	case p.Status != gateway.RequiresAction:
		page(w, http.StatusOK, actionView{Title: "Nothing to confirm", Text: "This payment needs no confirmation any more. You can close this page."})
	default:
		page(w, http.StatusOK, actionView{Title: "Confirm your payment", Amount: p.Amount.String(), Currency: p.Amount.Currency()})
	}
}

// act takes the buyer's decision and sends the buyer back to the shop.
func (s *Server) act(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	decision := r.PostFormValue("decision")
	p, ok := s.byCharge(r.PathValue("payment"))
	if !ok {
		page(w, http.StatusNotFound, actionView{Title: "Unknown payment", Text: "There is no payment at this address."})
		return
	}
	if decision != "confirm" && decision != "decline" {
		page(w, http.StatusBadRequest, actionView{Title: "No decision", Text: "Go back, and confirm or decline."})
		return
	}
	p, changed, err := s.books.update(p.Reference, func(p *payment) bool {
		if p.Status != gateway.RequiresAction {
			return false
		}
		if p.Status = gateway.Pending; decision == "decline" {
			p.Status, p.Reason = gateway.Failed, reasonByBuyer
		}
		return true
	})
	if err != nil {
		s.broken(w, err)
		return
	}
	if changed && p.Status == gateway.Pending {
		s.begin(p)
	} else if changed {
		s.report(p)
	}
	if p.ReturnURL != "" {
		http.Redirect(w, r, p.ReturnURL, http.StatusSeeOther)
		return
	}
	page(w, http.StatusOK, actionView{Title: "Thank you", Text: "You can close this page."})
}

// byCharge returns the payment whose first charge has the id.
func (s *Server) byCharge(id string) (payment, bool) {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	reference, ok := s.books.charges[id]
	if !ok {
		return payment{}, false
	}
	return s.books.get(reference)
}

func page(w http.ResponseWriter, status int, v actionView) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'")
	w.WriteHeader(status)
	_ = actionHTML.Execute(w, v) // a browser that has gone reloads
}
