package httpapi_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/problem"
	"github.com/dopaminestore/dopamine/tools/apitest"
)

const acquireBody = `{"productId":"0af76519-16cd-43dd-8448-eb211c80319c"}`

var soldOut = problem.New(problem.SoldOut, "every unit is taken")

// ours returns the server with a handler that refuses at once, like the acquire path.
func ours(b *testing.B) (http.Handler, string) {
	tokens := apitest.NewTokens(b)
	s := httpapi.New(httpapi.Options{Verifier: tokens.Verifier, Limits: httpapi.Limits{BuyerRate: 1_000_000}, Registry: prometheus.NewRegistry()})
	s.Handle(httpapi.Route{Method: http.MethodPost, Path: "/v1/slots/acquire", Access: httpapi.Role(auth.Buyer), Body: httpapi.JSONBody,
		Handler: func(c echo.Context) error {
			var in struct {
				ProductID *httpapi.UUID `json:"productId"`
			}
			if err := httpapi.DecodeJSON(c, &in); err != nil {
				return err
			}
			return soldOut
		}})
	token := (&api{t: b, tokens: tokens}).token(auth.Buyer)
	return s, token
}

// bare returns the baseline: Echo, golang-jwt, Echo's binding and JSON.
func bare() http.Handler {
	e := echo.New()
	e.POST("/v1/slots/acquire", func(c echo.Context) error {
		raw := strings.TrimPrefix(c.Request().Header.Get("Authorization"), "Bearer ")
		claims := struct {
			jwt.RegisteredClaims
			Roles []string `json:"roles"`
		}{}
		if _, err := jwt.ParseWithClaims(raw, &claims, func(*jwt.Token) (any, error) { return apitest.Secret, nil },
			jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired()); err != nil {
			return c.JSON(http.StatusUnauthorized, map[string]string{"title": "no"})
		}
		var in struct {
			ProductID string `json:"productId"`
		}
		if err := c.Bind(&in); err != nil {
			return err
		}
		return c.JSON(http.StatusConflict, struct {
			Type   string `json:"type"`
			Title  string `json:"title"`
			Status int    `json:"status"`
		}{problem.TypeBase + "sold-out", "Sold out", http.StatusConflict})
	})
	return e
}

// BenchmarkServer measures both over loopback, with a client that costs little.
func BenchmarkServer(b *testing.B) {
	handler, token := ours(b)
	for _, c := range []struct {
		name    string
		handler http.Handler
	}{{"bare", bare()}, {"ours", handler}, {"bare again", bare()}, {"ours again", handler}} {
		b.Run(c.name, func(b *testing.B) {
			server := httptest.NewServer(c.handler)
			defer server.Close()
			request := fmt.Sprintf("POST /v1/slots/acquire HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
				token, len(acquireBody), acquireBody)
			b.ReportAllocs()
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				conn, err := net.Dial("tcp", server.Listener.Addr().String())
				if err != nil {
					b.Error(err)
					return
				}
				defer conn.Close()
				r := bufio.NewReader(conn)
				for pb.Next() {
					if _, err := conn.Write([]byte(request)); err != nil {
						b.Error(err)
						return
					}
					if err := skipAnswer(r, "HTTP/1.1 409"); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func skipAnswer(r *bufio.Reader, want string) error {
	length := 0
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte(want)) {
			return fmt.Errorf("answered %q", line)
		}
		if len(line) == 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	_, err := r.Discard(length)
	return err
}

// BenchmarkHandler measures the same without the network.
func BenchmarkHandler(b *testing.B) {
	handler, token := ours(b)
	for _, c := range []struct {
		name    string
		handler http.Handler
	}{{"bare", bare()}, {"ours", handler}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest("POST", "/v1/slots/acquire", strings.NewReader(acquireBody))
				r.Header.Set("Authorization", token)
				r.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				c.handler.ServeHTTP(w, r)
				if w.Code != http.StatusConflict {
					b.Fatal(w.Code)
				}
			}
		})
	}
}
