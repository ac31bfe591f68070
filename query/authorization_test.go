package query_test

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/query"
	"github.com/dopaminestore/dopamine/tools/apitest"
	"github.com/dopaminestore/dopamine/tools/authmatrix"
)

// TestAuthorization has a row for every route of the query API (contract 7).
func TestAuthorization(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgres://127.0.0.1:1/none")
	require.NoError(t, err)
	defer pool.Close()
	api, err := query.New(query.Config{ReadPool: pool, WritePool: pool,
		Server: httpapi.Options{Verifier: apitest.NewTokens(t).Verifier, Registry: prometheus.NewRegistry()}})
	require.NoError(t, err)
	description, err := os.ReadFile("openapi.yaml")
	require.NoError(t, err)
	authmatrix.Run(t, authmatrix.API{Handler: api.Handler(), Routes: api.Routes(), OpenAPI: description, Secret: apitest.Secret}, authmatrix.Rows{
		"GET /v1/products":                   "public",
		"GET /v1/products/{id}":              "public",
		"GET /v1/products/{id}/stream":       "public",
		"GET /v1/products/{id}/fairness":     "public",
		"GET /v1/products/{id}/fairness/log": "public",
		"GET /v1/slots/my-slots":             "buyer",
		"GET /v1/slots/my-slots/stream":      "buyer",
		"GET /v1/slots/{id}":                 "buyer,admin",
		"GET /v1/payments/{id}":              "buyer,admin",
		"GET /v1/payments/{id}/refunds":      "buyer,admin",
		"GET /v1/operations/money":           "admin",
		"GET /v1/purchases":                  "buyer,admin",
		"GET /v1/audit":                      "admin",
		"GET /v1/stats/stream":               "admin",
		"GET /dashboard/stream":              "admin",
		"GET /":                              "public",
		"GET /assets/{file}":                 "public",
		"GET /health/live":                   "open",
		"GET /health/ready":                  "open",
		"GET /metrics":                       "open",
		"GET /openapi.yaml":                  "open",
	})
}
