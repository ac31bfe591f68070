package redis

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

// lane is one connection. A pool would not reveal which connection ran
// a script, and the instance id belongs to the connection. It is used by one goroutine at
// a time.
type lane struct {
	conn         *goredis.Conn
	pool         *lanes
	instance     string    // the process and its life as a master
	identifiedAt time.Time // when it was identified, taken before the query
	broken       bool      // not to be used again
	seen         func(script string, requests int, took time.Duration, err error)
}

// errMoved: the process was another one, or had another life, by the time
// its answer arrived, so the answer is not trusted.
var errMoved = errors.New("redis: Redis restarted or failed over during the call")

// lostError reports that a call was sent, as far as is known, and not answered.
type lostError struct{ err error }

func (e *lostError) Error() string { return "no answer: " + e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// identify reads the instance id: run_id identifies the process, master_replid changes
// with every promotion.
func (l *lane) identify(ctx context.Context) error {
	before := time.Now()
	pipe := l.conn.Pipeline()
	server := pipe.Info(ctx, "server")
	replication := pipe.Info(ctx, "replication")
	if _, err := pipe.Exec(ctx); err != nil {
		l.broken = true
		return fmt.Errorf("identify the Redis: %w", err)
	}
	run, life := infoField(server.Val(), "run_id"), infoField(replication.Val(), "master_replid")
	if run == "" || life == "" {
		l.broken = true
		return errors.New("identify the Redis: INFO contains no run_id or master_replid")
	}
	if role := infoField(replication.Val(), "role"); role != "master" {
		l.broken = true
		return fmt.Errorf("the server is a %s, not a master", role)
	}
	l.instance, l.identifiedAt = run+":"+life, before
	l.pool.recordInstance(l.instance)
	return nil
}

// checked marks the lane as broken if a command on its connection was not answered.
func (l *lane) checked(err error) error {
	var refused goredis.Error
	if err != nil && !errors.As(err, &refused) {
		l.broken = true
	}
	return err
}

// call runs a script once. If the answer arrives so late that the identity of the
// process is stale, it is trusted only after another check. Errors of the
// connection are *lostError.
func (l *lane) call(ctx context.Context, s *script, keys []string, args ...any) (reply any, err error) {
	return l.runScript(ctx, s, 0, keys, args...)
}

func (l *lane) runScript(ctx context.Context, s *script, requests int, keys []string, args ...any) (reply any, err error) {
	if time.Since(l.identifiedAt) > identityInterval {
		if err := l.identify(ctx); err != nil {
			return nil, err
		}
	}
	if s.instanced {
		args = append([]any{l.instance}, args...)
	}
	began := time.Now()
	cmd := s.EvalSha(ctx, l.conn, keys, args...)
	if goredis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") { // it did not run
		cmd = s.Eval(ctx, l.conn, keys, args...)
	}
	reply, err = cmd.Result()
	if errors.Is(err, goredis.Nil) {
		reply, err = nil, nil
	}
	l.seen(s.name, requests, time.Since(began), err)
	if err != nil {
		return nil, l.failed(s, err)
	}
	if s.instanced && time.Since(l.identifiedAt) > identityInterval {
		instance := l.instance
		if err := l.identify(ctx); err != nil {
			return nil, &lostError{err}
		}
		if l.instance != instance {
			return nil, errMoved
		}
	}
	return reply, nil
}

func (l *lane) failed(s *script, err error) error {
	var refused goredis.Error
	if errors.As(err, &refused) {
		// LOADING, TRYAGAIN, CLUSTERDOWN, OOM, …: no answer now, not a lost gate.
		// A READONLY one has become a replica.
		l.broken = strings.HasPrefix(refused.Error(), "READONLY")
		return fmt.Errorf("script %s: %w", s.name, err)
	}
	l.broken = true
	return &lostError{fmt.Errorf("script %s: %w", s.name, err)}
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
