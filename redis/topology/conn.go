package topology

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// identityInterval is how old the identity of a connection's process may be.
const identityInterval = time.Second

// Script is a Lua script. An instanced one receives the instance id of the connection on which it
// runs as ARGV[1].
type Script struct {
	Name      string
	Instanced bool
	*goredis.Script
}

// Conn is one connection. A pool would not reveal which connection ran a script, and the instance
// id belongs to the connection. It is used by one goroutine at a time.
type Conn struct {
	Redis        *goredis.Conn
	Server       *Server
	Instance     string    // the process and its life as a master
	identifiedAt time.Time // when it was identified, taken before the query
	broken       bool      // not to be used again
	seen         func(script string, requests int, took time.Duration, err error)
}

// ErrMoved: the process was another one, or had another life, by the time
// its answer arrived, so the answer is not trusted.
var ErrMoved = errors.New("redis: Redis restarted or failed over during the call")

// LostError reports that a call was sent, as far as is known, and not answered.
type LostError struct{ Err error }

func (e *LostError) Error() string { return "no answer: " + e.Err.Error() }
func (e *LostError) Unwrap() error { return e.Err }

// Identify reads the instance id: run_id identifies the process, master_replid changes
// with every promotion.
func (c *Conn) Identify(ctx context.Context) error {
	before := time.Now()
	pipe := c.Redis.Pipeline()
	server := pipe.Info(ctx, "server")
	replication := pipe.Info(ctx, "replication")
	if _, err := pipe.Exec(ctx); err != nil {
		c.broken = true
		return fmt.Errorf("identify the Redis: %w", err)
	}
	run, life := infoField(server.Val(), "run_id"), infoField(replication.Val(), "master_replid")
	if run == "" || life == "" {
		c.broken = true
		return errors.New("identify the Redis: INFO contains no run_id or master_replid")
	}
	if role := infoField(replication.Val(), "role"); role != "master" {
		c.broken = true
		return fmt.Errorf("the server is a %s, not a master", role)
	}
	c.Instance, c.identifiedAt = run+":"+life, before
	c.Server.recordInstance(c.Instance)
	return nil
}

// Checked marks the connection as broken if a command on its connection was not answered.
func (c *Conn) Checked(err error) error {
	var refused goredis.Error
	if err != nil && !errors.As(err, &refused) {
		c.broken = true
	}
	return err
}

// Call runs a script once. If the answer arrives so late that the identity of the
// process is stale, it is trusted only after another check. Errors of the
// connection are *LostError.
func (c *Conn) Call(ctx context.Context, s *Script, keys []string, args ...any) (reply any, err error) {
	return c.CallBatch(ctx, s, 0, keys, args...)
}

// CallBatch is Call for a script that handles several requests.
func (c *Conn) CallBatch(ctx context.Context, s *Script, requests int, keys []string, args ...any) (reply any, err error) {
	if time.Since(c.identifiedAt) > identityInterval {
		if err := c.Identify(ctx); err != nil {
			return nil, err
		}
	}
	if s.Instanced {
		args = append([]any{c.Instance}, args...)
	}
	began := time.Now()
	cmd := s.EvalSha(ctx, c.Redis, keys, args...)
	if goredis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") { // it did not run
		cmd = s.Eval(ctx, c.Redis, keys, args...)
	}
	reply, err = cmd.Result()
	if errors.Is(err, goredis.Nil) {
		reply, err = nil, nil
	}
	c.seen(s.Name, requests, time.Since(began), err)
	if err != nil {
		return nil, c.failed(s, err)
	}
	if s.Instanced && time.Since(c.identifiedAt) > identityInterval {
		instance := c.Instance
		if err := c.Identify(ctx); err != nil {
			return nil, &LostError{err}
		}
		if c.Instance != instance {
			return nil, ErrMoved
		}
	}
	return reply, nil
}

func (c *Conn) failed(s *Script, err error) error {
	var refused goredis.Error
	if errors.As(err, &refused) {
		// LOADING, TRYAGAIN, CLUSTERDOWN, OOM, …: no answer now, not a lost gate.
		// A READONLY one has become a replica.
		c.broken = strings.HasPrefix(refused.Error(), "READONLY")
		return fmt.Errorf("script %s: %w", s.Name, err)
	}
	c.broken = true
	return &LostError{fmt.Errorf("script %s: %w", s.Name, err)}
}

// infoField returns the value of a field of INFO, or "" if it is missing.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
