package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"
)

// slowRegistry is a schema registry with the Confluent API that answers late or
// not at all.
type slowRegistry struct {
	url    string
	server *httptest.Server

	mu      sync.Mutex
	delay   time.Duration
	away    bool
	ids     map[string]int
	schemas []string
	calls   int
}

func startRegistry() (*slowRegistry, error) {
	r := &slowRegistry{ids: map[string]int{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	r.server.Listener = l
	r.server.Start()
	r.url = r.server.URL
	return r, nil
}

func (r *slowRegistry) set(delay time.Duration, away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delay, r.away = delay, away
}

func (r *slowRegistry) called() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls
}

func (r *slowRegistry) stop() { r.server.Close() }

func (r *slowRegistry) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	delay, away := r.delay, r.away
	r.calls++
	r.mu.Unlock()
	time.Sleep(delay)
	if away {
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = c.Close()
		}
		return
	}
	w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	var body struct {
		Schema string `json:"schema"`
	}
	_ = json.NewDecoder(req.Body).Decode(&body)
	path := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case path[0] == "config":
		answer(map[string]string{"compatibility": "BACKWARD", "compatibilityLevel": "BACKWARD"})
	case path[0] == "compatibility":
		answer(map[string]bool{"is_compatible": true})
	case path[0] == "schemas" && len(path) == 3:
		for i, schema := range r.schemas {
			if path[2] == itoa(i+1) {
				answer(map[string]string{"schema": schema})
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
		answer(map[string]any{"error_code": 40403, "message": "schema not found"})
	case path[0] == "subjects" && req.Method == http.MethodPost:
		id, known := r.ids[body.Schema]
		if !known && len(path) == 2 { // a look-up
			w.WriteHeader(http.StatusNotFound)
			answer(map[string]any{"error_code": 40401, "message": "subject not found"})
			return
		}
		if !known {
			r.schemas = append(r.schemas, body.Schema)
			id = len(r.schemas)
			r.ids[body.Schema] = id
		}
		answer(map[string]any{"id": id, "version": 1, "subject": path[1], "schema": body.Schema})
	default:
		answer([]string{})
	}
}
