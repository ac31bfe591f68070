package main

import (
	"net"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/query"
)

// dropOf returns what the example of a buyer's page needs, nil if dev has no key
// to sign tokens with.
func dropOf(r *config.Reader, commandAddr string) *query.Drop {
	signer, err := auth.NewSigner(r.Signing())
	if err != nil {
		return nil
	}
	_, port, err := net.SplitHostPort(commandAddr)
	if err != nil {
		return nil
	}
	tokens := tokensOf(signer)
	return &query.Drop{CommandPort: port, Token: func() (string, error) { return tokens(uuid.New(), "buyer") }}
}

// dropOrigins are the origins that the page has when it calls the command API.
func dropOrigins(queryAddr string) []string {
	host, port, err := net.SplitHostPort(queryAddr)
	if err != nil {
		return nil
	}
	origins := []string{"http://" + net.JoinHostPort("127.0.0.1", port), "http://" + net.JoinHostPort("localhost", port)}
	if ip := net.ParseIP(host); host != "127.0.0.1" && host != "localhost" && host != "" && (ip == nil || !ip.IsUnspecified()) {
		origins = append(origins, "http://"+net.JoinHostPort(host, port))
	}
	return origins
}
