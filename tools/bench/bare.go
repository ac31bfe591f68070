package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/problem"
)

// serveBare is the limit of the sold-out response: Echo, golang-jwt, encoding/json, the same token,
// body and problem document, and nothing else.
func serveBare(ctx context.Context, addr, keyFile string) error {
	secret, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.POST(acquirePath, bareHandler(secret))
	ended := make(chan error, 1)
	go func() { ended <- e.Start(addr) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := e.Shutdown(stop); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return nil
	}
}

func bareHandler(secret []byte) echo.HandlerFunc {
	key := func(*jwt.Token) (any, error) { return secret, nil }
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
	type answer struct {
		Type     string `json:"type"`
		Title    string `json:"title"`
		Status   int    `json:"status"`
		Detail   string `json:"detail"`
		Instance string `json:"instance"`
		TraceID  string `json:"traceId"`
	}
	return func(c echo.Context) error {
		token := strings.TrimPrefix(c.Request().Header.Get("Authorization"), "Bearer ")
		var claims struct {
			jwt.RegisteredClaims
			Roles []string `json:"roles"`
		}
		if _, err := parser.ParseWithClaims(token, &claims, key); err != nil {
			return c.NoContent(http.StatusUnauthorized)
		}
		if _, err := uuid.Parse(claims.Subject); err != nil {
			return c.NoContent(http.StatusUnauthorized)
		}
		var in struct {
			ProductID uuid.UUID `json:"productId"`
		}
		if err := json.NewDecoder(c.Request().Body).Decode(&in); err != nil {
			return c.NoContent(http.StatusBadRequest)
		}
		var trace [16]byte
		_, _ = rand.Read(trace[:]) // never fails
		c.Response().Header().Set(echo.HeaderContentType, problem.ContentType)
		c.Response().WriteHeader(http.StatusConflict)
		return json.NewEncoder(c.Response()).Encode(answer{
			Type: problem.TypeBase + string(problem.SoldOut), Title: "Sold out", Status: http.StatusConflict,
			Detail: "every unit is held", Instance: acquirePath, TraceID: hex.EncodeToString(trace[:]),
		})
	}
}
