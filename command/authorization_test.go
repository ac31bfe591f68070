package command

import (
	"testing"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/tools/apitest"
	"github.com/dopaminestore/dopamine/tools/authmatrix"
)

// TestAuthorization has a row for every route of the command API (contract 7).
func TestAuthorization(t *testing.T) {
	k := newTokens(t)
	server := refusing(t, k).handler.(*httpapi.Server)
	authmatrix.Run(t, authmatrix.API{Handler: server, Routes: server.Routes(), OpenAPI: openAPI, Secret: apitest.Secret}, authmatrix.Rows{
		"POST /v1/products":        "admin",
		"PUT /v1/products/{id}":    "admin",
		"DELETE /v1/products/{id}": "admin",
		"POST /v1/slots/acquire":   "buyer",

		"POST /v1/products/{id}/cancel":     "admin",
		"DELETE /v1/payments/{id}":          "buyer,admin",
		"POST /v1/payments/{id}/refunds":    "admin",
		"POST /v1/payments/{id}/resolution": "admin",

		"DELETE /v1/slots/{id}":     "buyer,admin",
		"POST /v1/payments":         "buyer",
		"POST /v1/webhooks/payment": "open",
		"GET /health/live":          "open",
		"GET /health/ready":         "open",
		"GET /metrics":              "open",
		"GET /openapi.yaml":         "open",
	})
}
