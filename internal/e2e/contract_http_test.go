package e2e

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
)

func (s *site) answersTheFirstProblem() {
	nobody, buyer, admin := s.users.nobody(), s.users.buyer(), s.admin
	big, text := strings.Repeat("x", 64<<10+1), "text/plain"
	products, missing := s.products(), s.products()+"/"+uuid.NewString()
	id := s.admin.product(s.command, 1)
	_, slot := s.holds(s.users.buyer(), id)
	for _, c := range []struct {
		who         *client
		method, url string
		body        any
		status      int
		slug        string
	}{
		{nobody, http.MethodPatch, s.command + "/v1/nothing", big, 404, "not-found"},
		{nobody, http.MethodPut, s.command + "/v1/products/x/y", "{", 404, "not-found"},
		{nobody, http.MethodGet, s.command + "/v1/products/x/y", nil, 404, "not-found"},
		{nobody, http.MethodGet, s.query + "/v1/slots/x/y", nil, 404, "not-found"},
		{nobody, http.MethodPost, s.query + "/v1/slots/x/y", nil, 404, "not-found"},
		{nobody, http.MethodGet, s.query + "/v1/nothing", nil, 404, "not-found"},
		{nobody, http.MethodPatch, products, big, 405, "method-not-allowed"},
		{nobody, http.MethodPost, s.query + "/v1/audit", "{", 405, "method-not-allowed"},
		{nobody.with("Content-Type", text), http.MethodPost, products, big, 401, "unauthenticated"},
		{buyer.with("Content-Type", text), http.MethodPost, products, big, 403, "forbidden"},
		{admin.with("Content-Type", text), http.MethodPost, products, big, 413, "payload-too-large"},
		{admin.with("Content-Type", text), http.MethodPost, products, "{", 415, "unsupported-media-type"},
		{admin.with("Content-Type", ""), http.MethodPost, products, "{}", 415, "unsupported-media-type"},
		{admin, http.MethodPut, missing, "{", 400, "invalid-request"},
		{admin, http.MethodPut, missing, object{"name": "x"}, 404, "product-not-found"},
		{admin, http.MethodPut, products + "/x", object{"name": "x"}, 400, "invalid-request"},
		{admin, http.MethodPost, s.acquireURL(), object{"productId": id}, 403, "forbidden"},
		{buyer, http.MethodDelete, missing, nil, 403, "forbidden"},
		{buyer, http.MethodGet, s.query + "/v1/audit?limit=x", nil, 403, "forbidden"},
		{buyer.with("X-Min-Position", "x"), http.MethodGet, s.query + "/v1/slots/" + slot["id"].(string), nil, 400, "invalid-request"},
	} {
		c.who.t = s.t
		c.who.refused(c.status, c.slug, c.method, c.url, c.body)
	}
	// A body of 64 KiB is still accepted; the media type may have parameters.
	pad := strings.Repeat(" ", 64<<10-2)
	admin.with("Content-Type", "application/json; charset=utf-8").refused(400, "invalid-request", http.MethodPost, products, "{"+pad+"}")
}

func (s *site) describesProblems() {
	a, o := s.users.nobody().refused(http.StatusUnauthorized, "unauthenticated", http.MethodPost, s.products(), object{})
	require.Equal(s.t, "application/problem+json", strings.Split(a.header.Get("Content-Type"), ";")[0])
	require.Equal(s.t, "Bearer", strings.Fields(a.header.Get("WWW-Authenticate"))[0])
	fields(s.t, o, "type", "title", "status", "detail", "instance", "traceId")
	require.Equal(s.t, "https://dopaminestore.dev/problems/unauthenticated", o["type"])
	require.Equal(s.t, "401", number(o["status"]))
	require.Equal(s.t, "/v1/products", o["instance"])
	require.Equal(s.t, a.header.Get("X-Trace-ID"), o["traceId"])
	a, o = s.users.nobody().refused(http.StatusNotFound, "not-found", http.MethodGet, s.query+"/v1/nothing", nil)
	fields(s.t, o, "type", "title", "status", "detail", "instance", "traceId")
	require.Regexp(s.t, aTrace, a.header.Get("X-Trace-ID"))
	a, _ = s.users.nobody().refused(http.StatusMethodNotAllowed, "method-not-allowed", http.MethodPatch, s.products(), nil)
	require.Contains(s.t, a.header.Get("Allow"), http.MethodPost)
}

func (s *site) checksTokens() {
	key, err := s.users.secret()
	require.NoError(s.t, err)
	sub, hour := uuid.NewString(), time.Now().Add(time.Hour).Unix()
	mine := s.query + "/v1/slots/my-slots"
	sign := func(method jwt.SigningMethod, key any, claims jwt.MapClaims) *client {
		text, err := jwt.NewWithClaims(method, claims).SignedString(key)
		require.NoError(s.t, err)
		c := s.users.nobody()
		c.token = text
		return c
	}
	for _, sub := range []string{sub, "auth0|5f7c8ec7c33c6c004bbafe82", strings.ToUpper(sub)} {
		sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"sub": sub, "roles": []string{"buyer"}, "exp": hour}).want(http.StatusOK, http.MethodGet, mine, nil)
	}
	for name, c := range map[string]*client{
		"no signature":   sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"sub": sub, "roles": []string{"buyer"}, "exp": hour}),
		"another key":    sign(jwt.SigningMethodHS256, []byte(strings.Repeat("x", 48)), jwt.MapClaims{"sub": sub, "roles": []string{"buyer"}, "exp": hour}),
		"another method": sign(jwt.SigningMethodHS512, key, jwt.MapClaims{"sub": sub, "roles": []string{"buyer"}, "exp": hour}),
		"no end":         sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"sub": sub, "roles": []string{"buyer"}}),
		"over":           sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"sub": sub, "roles": []string{"buyer"}, "exp": hour - 7200}),
		"not yet":        sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"sub": sub, "roles": []string{"buyer"}, "exp": hour + 60, "nbf": hour}),
		"no sub":         sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"roles": []string{"buyer"}, "exp": hour}),
		"a sub too long": sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"sub": strings.Repeat("x", 256), "roles": []string{"buyer"}, "exp": hour}),
		"no token":       s.users.nobody().with("Authorization", "Bearer"),
		"another scheme": s.users.nobody().with("Authorization", "Basic dTpw"),
	} {
		for _, url := range []string{mine, s.query + "/v1/products"} { // even if no token is needed
			a := c.get(url)
			require.Equal(s.t, "unauthenticated", a.slug(), "%s: %s: %s", name, url, a.body)
			require.Contains(s.t, a.header.Get("WWW-Authenticate"), "Bearer")
		}
	}
	for _, roles := range [][]string{{}, {"Buyer"}, {"admin"}} {
		sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"sub": sub, "roles": roles, "exp": hour}).refused(http.StatusForbidden, "forbidden", http.MethodGet, mine, nil)
	}
}

func (s *site) tracesEverything() {
	const trace, other = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"
	parent := "00-" + trace + "-b7ad6b7169203331-01"
	for _, url := range []string{s.query + "/v1/products", s.command + "/health/live", s.query + "/v1/nothing", s.command + "/v1/products", s.query + "/metrics"} {
		c := s.users.nobody()
		require.Regexp(s.t, aTrace, c.get(url).header.Get("X-Trace-ID"), url)
		require.Equal(s.t, trace, c.with("traceparent", parent).get(url).header.Get("X-Trace-ID"), url)
		require.Equal(s.t, other, c.with("X-Trace-ID", other).get(url).header.Get("X-Trace-ID"), url)
		require.Equal(s.t, trace, c.with("traceparent", parent, "X-Trace-ID", other).get(url).header.Get("X-Trace-ID"), url)
		for _, bad := range []string{"x", strings.Repeat("0", 32), strings.ToUpper(other), other + "0"} {
			got := c.with("X-Trace-ID", bad).get(url).header.Get("X-Trace-ID")
			require.Regexp(s.t, aTrace, got)
			require.NotEqual(s.t, bad, got)
		}
		require.Equal(s.t, other, c.with("traceparent", "00-"+strings.Repeat("0", 32)+"-b7ad6b7169203331-01", "X-Trace-ID", other).get(url).header.Get("X-Trace-ID"), url)
	}
}

func (s *site) readsOwnWrites() {
	buyer := s.users.buyer()
	var tokens []string
	for range 20 {
		id := s.admin.product(s.command, 1)
		got, slot := s.holds(buyer, id)
		tokens = append(tokens, got.header.Get("X-Position"))
		_, o := buyer.with("X-Min-Position", got.header.Get("X-Position")).want(http.StatusOK, http.MethodGet, s.query+"/v1/slots/my-slots", nil)
		require.Equal(s.t, slot["id"], o["slots"].([]any)[0].(object)["id"], "a buyer always reads their own write")
		_, p := s.users.nobody().with("X-Min-Position", tokens[len(tokens)-1]).want(http.StatusOK, http.MethodGet, s.query+"/v1/products/"+id, nil)
		require.Equal(s.t, "0", number(p["stock"]))
	}
	hundred := strings.TrimSuffix(strings.Repeat(strings.Join(tokens, ",")+",", 5), ",")
	for _, url := range []string{"/v1/products", "/v1/slots/my-slots", "/v1/purchases"} {
		buyer.with("X-Min-Position", hundred).want(http.StatusOK, http.MethodGet, s.query+url, nil)
		for _, bad := range []string{"1", "x", tokens[0] + ",", hundred + "," + tokens[0], tokens[0] + "x"} {
			_, o := buyer.with("X-Min-Position", bad).refused(http.StatusBadRequest, "invalid-request", http.MethodGet, s.query+url, nil)
			require.Contains(s.t, o, "errors")
		}
	}
}

func (s *site) limitsBuyers() {
	many := func(c *client) (turnedAway answer, served int) {
		for range 300 {
			a := c.get(s.query + "/v1/slots/my-slots")
			switch a.status {
			case http.StatusOK, http.StatusForbidden:
				served++
			case http.StatusTooManyRequests:
				turnedAway = a
			}
		}
		return turnedAway, served
	}
	a, served := many(s.users.buyer())
	require.GreaterOrEqual(s.t, served, 100, "the burst is twice the rate")
	require.Equal(s.t, "too-many-requests", a.slug())
	after, err := strconv.Atoi(a.header.Get("Retry-After"))
	require.NoError(s.t, err)
	require.Positive(s.t, after)
	_, served = many(s.users.admin())
	require.Equal(s.t, 300, served, "the limit is the buyers'")
	a, _ = many(s.users.new(auth.Buyer | auth.Admin))
	require.Equal(s.t, "too-many-requests", a.slug(), "for every role")
}

func (s *site) allowsOrigins() {
	for _, base := range []string{s.command + "/v1/slots/acquire", s.query + "/v1/slots/my-slots"} {
		c := s.users.nobody()
		ask := []string{"Access-Control-Request-Method", http.MethodPost, "Access-Control-Request-Headers", "authorization,content-type,idempotency-key,x-min-position"}
		a := c.with(append(ask, "Origin", origin)...).do(http.MethodOptions, base, nil)
		require.Less(s.t, a.status, 300, "%s", a.body)
		require.Equal(s.t, origin, a.header.Get("Access-Control-Allow-Origin"))
		for _, h := range []string{"authorization", "content-type", "idempotency-key", "x-min-position"} {
			require.Contains(s.t, strings.ToLower(a.header.Get("Access-Control-Allow-Headers")), h)
		}
		require.Contains(s.t, a.header.Get("Access-Control-Allow-Methods"), http.MethodPost)
		a = c.with("Origin", origin).get(base) // an error too must be readable
		require.Equal(s.t, origin, a.header.Get("Access-Control-Allow-Origin"))
		for _, h := range []string{"x-position", "x-trace-id", "retry-after", "location"} {
			require.Contains(s.t, strings.ToLower(a.header.Get("Access-Control-Expose-Headers")), h)
		}
		a = c.with(append(ask, "Origin", "https://evil.example.com")...).do(http.MethodOptions, base, nil)
		require.Empty(s.t, a.header.Get("Access-Control-Allow-Origin"))
	}
}

func (s *site) showsHealth() {
	for url, components := range map[string][]string{s.command: {"database", "redis"}, s.query: {"database"}} {
		_, o := s.users.nobody().want(http.StatusOK, http.MethodGet, url+"/health/ready", nil)
		require.Equal(s.t, "UP", o["status"])
		for _, c := range components {
			require.Equal(s.t, "UP", o["components"].(object)[c], c)
		}
		_, o = s.users.nobody().want(http.StatusOK, http.MethodGet, url+"/health/live", nil)
		require.Equal(s.t, "UP", o["status"])
		require.Contains(s.t, string(s.users.nobody().get(url+"/metrics").body), "# TYPE dopamine_")
		a := s.users.nobody().get(url + "/openapi.yaml")
		require.Contains(s.t, string(a.body), "openapi: 3")
	}
	commands, queries := string(s.users.nobody().get(s.command+"/openapi.yaml").body), string(s.users.nobody().get(s.query+"/openapi.yaml").body)
	for _, path := range []string{"/v1/slots/acquire:", "/v1/payments:", "/v1/webhooks/payment:"} {
		require.Contains(s.t, commands, path)
		require.NotContains(s.t, queries, path, "its own routes")
	}
	require.Contains(s.t, queries, "/v1/audit:")
	require.NotContains(s.t, commands, "/v1/audit:")
}
