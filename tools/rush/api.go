package rush

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain/fairness"
)

// The parts of the APIs' responses that are used.
type (
	product struct {
		ID         uuid.UUID `json:"id"`
		Stock      int       `json:"stock"`
		TotalStock int       `json:"totalStock"`
		SaleDate   time.Time `json:"saleDate"`
		Price      string    `json:"price"`
		Currency   string    `json:"currency"`
	}
	slot struct {
		ID              uuid.UUID `json:"id"`
		Unit            int       `json:"unit"`
		ArrivalSequence int64     `json:"arrivalSequence"`
		Status          string    `json:"status"`
		Expires         time.Time `json:"expirationTimestamp"`
	}
	entry struct {
		EventID  uuid.UUID       `json:"eventId"`
		Type     string          `json:"type"`
		SlotID   uuid.UUID       `json:"slotId"`
		UserID   uuid.UUID       `json:"userId"`
		Metadata json.RawMessage `json:"metadata"`
	}
	problem struct {
		Type   string `json:"type"`
		Detail string `json:"detail"`
	}
	fairnessReport struct {
		Decided    int64 `json:"decided"`
		Granted    int64 `json:"granted"`
		Inversions int64 `json:"inversions"`
		Complete   bool  `json:"complete"`
	}
)

func (p problem) slug() string { return p.Type[strings.LastIndexByte(p.Type, '/')+1:] }

// refusal is a response with a problem document.
type refusal struct {
	what         string // method and path
	status       int
	slug, detail string
}

func (e *refusal) Error() string {
	return fmt.Sprintf("%s: status %d %s: %s", e.what, e.status, e.slug, e.detail)
}

// passing reports whether the same request may succeed later.
func (e *refusal) passing() bool {
	return e.status >= http.StatusInternalServerError || e.status == http.StatusTooManyRequests
}

// api calls the APIs with one user's token.
type api struct {
	command, query, token string
	http                  *http.Client
}

func newAPI(command, query, token string) *api {
	return &api{command: command, query: query, token: token, http: &http.Client{Timeout: 30 * time.Second}}
}

// as returns an api with another user's token.
func (a *api) as(token string) *api {
	other := *a
	other.token = token
	return &other
}

func (a *api) createProduct(ctx context.Context, name string, stock int, opensIn time.Duration) (product, error) {
	body, err := json.Marshal(map[string]any{
		"name": name, "description": "Made to play the rush.", "stock": stock, "price": "259000", "currency": "KRW",
		"saleDate": time.Now().Add(opensIn).UTC().Format(time.RFC3339Nano),
	})
	if err != nil {
		return product{}, err
	}
	var p product
	return p, a.call(ctx, http.MethodPost, a.command+"/v1/products", body, nil, &p)
}

// after returns the X-Min-Position that makes a query wait for the given writes. The header takes a
// hundred positions, and later writes of one product include earlier ones, so the last hundred
// suffice.
func after(positions []string) http.Header {
	const most = 100
	if len(positions) == 0 {
		return nil
	}
	positions = positions[max(0, len(positions)-most):]
	return http.Header{"X-Min-Position": {strings.Join(positions, ",")}}
}

func (a *api) product(ctx context.Context, id uuid.UUID, h http.Header) (product, error) {
	var p product
	return p, a.call(ctx, http.MethodGet, a.query+"/v1/products/"+id.String(), nil, h, &p)
}

func (a *api) fairness(ctx context.Context, id uuid.UUID) (fairnessReport, error) {
	var f fairnessReport
	return f, a.call(ctx, http.MethodGet, a.query+"/v1/products/"+id.String()+"/fairness", nil, nil, &f)
}

// fold reads the product's decision log, folds it, and hands each line that is
// wrong to wrong.
func (a *api) fold(ctx context.Context, id uuid.UUID, wrong func(error)) (fairness.Report, error) {
	resp, err := a.open(ctx, http.MethodGet, a.query+"/v1/products/"+id.String()+"/fairness/log", nil, nil)
	if err != nil {
		return fairness.Report{}, err
	}
	defer resp.Body.Close()
	return fairness.Verify(resp.Body, wrong)
}

// payments reads all payments of a product.
func (a *api) payments(ctx context.Context, id uuid.UUID) ([]payment, error) {
	const page = "1000" // the maximum
	var all []payment
	for cursor := ""; ; {
		q := url.Values{"productId": {id.String()}, "limit": {page}}
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		var p struct {
			Purchases  []payment `json:"purchases"`
			NextCursor *string   `json:"nextCursor"`
		}
		if err := a.call(ctx, http.MethodGet, a.query+"/v1/purchases?"+q.Encode(), nil, nil, &p); err != nil {
			return nil, err
		}
		all = append(all, p.Purchases...)
		if p.NextCursor == nil || *p.NextCursor == "" {
			return all, nil
		}
		cursor = *p.NextCursor
	}
}

// atGateway returns the gateway's status of a payment: "pending", "succeeded", "failed", or "" if
// it does not know the payment.
func (a *api) atGateway(ctx context.Context, gateway string, id uuid.UUID) (string, error) {
	var p struct {
		Status string `json:"status"`
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, gateway+"/payments/"+id.String(), nil)
	if err != nil {
		return "", err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return "", fmt.Errorf("query the gateway: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return "", nil
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("query the gateway: status %d", resp.StatusCode)
	}
	err = json.NewDecoder(resp.Body).Decode(&p)
	return p.Status, err
}

// audit reads all entries of a product, in the order in which they happened.
func (a *api) audit(ctx context.Context, id uuid.UUID, h http.Header) ([]entry, error) {
	if h == nil {
		h = http.Header{}
	}
	h.Set("Accept", "application/x-ndjson")
	resp, err := a.open(ctx, http.MethodGet, a.query+"/v1/audit?"+url.Values{"productId": {id.String()}}.Encode(), nil, h)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var all []entry
	for dec := json.NewDecoder(resp.Body); ; {
		var e entry
		switch err := dec.Decode(&e); err {
		case nil:
			all = append(all, e)
		case io.EOF:
			return all, nil
		default:
			return nil, fmt.Errorf("read the audit: %w", err)
		}
	}
}

func (a *api) call(ctx context.Context, method, target string, body []byte, h http.Header, into any) error {
	resp, err := a.open(ctx, method, target, body, h)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("%s %s: %w", method, target, err)
	}
	return nil
}

// open sends a request, and retries while the read side reports that it is behind.
func (a *api) open(ctx context.Context, method, target string, body []byte, h http.Header) (*http.Response, error) {
	const patience = 30 * time.Second
	for deadline := time.Now().Add(patience); ; {
		req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		for k, v := range h {
			req.Header[k] = v
		}
		req.Header.Set("Authorization", "Bearer "+a.token)
		if body != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		resp, err := a.http.Do(req)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, target, err)
		}
		if resp.StatusCode < http.StatusMultipleChoices {
			return resp, nil
		}
		var p problem
		err = json.NewDecoder(resp.Body).Decode(&p)
		resp.Body.Close()
		if err != nil {
			return nil, &refusal{method + " " + target, resp.StatusCode, "", "no problem document"}
		}
		if p.slug() != "read-model-behind" || time.Now().After(deadline) {
			return nil, &refusal{method + " " + target, resp.StatusCode, p.slug(), p.Detail}
		}
		if err := waitUntil(ctx, time.Now().Add(100*time.Millisecond)); err != nil {
			return nil, err
		}
	}
}
