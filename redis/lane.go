package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// lookEvery is how old a look at who a connection's process is may be.
const lookEvery = time.Second

// lane is one connection of our own. A pool would never say which connection ran
// a script, and the stamp belongs to the connection. Used by one goroutine at a
// time.
type lane struct {
	conn     *goredis.Conn
	pool     *lanes
	instance string    // the process and its life as a master
	looked   time.Time // when, taken before it was asked
	broken   bool      // not to be used again
	seen     func(script string, requests int, took time.Duration, err error)
}

// errMoved says that the process was another, or had another life, by the time
// its answer came: the answer is not believed.
var errMoved = errors.New("redis: the process changed its life during the call")

// lostError says that a call was sent, as far as is known, and not answered.
type lostError struct{ err error }

func (e *lostError) Error() string { return "no answer: " + e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// look reads the stamp: run_id is the process, master_replid changes with every
// promotion.
func (l *lane) look(ctx context.Context) error {
	before := time.Now()
	pipe := l.conn.Pipeline()
	server := pipe.Info(ctx, "server")
	replication := pipe.Info(ctx, "replication")
	if _, err := pipe.Exec(ctx); err != nil {
		l.broken = true
		return fmt.Errorf("ask who the Redis is: %w", err)
	}
	run, life := infoField(server.Val(), "run_id"), infoField(replication.Val(), "master_replid")
	if run == "" || life == "" {
		l.broken = true
		return errors.New("ask who the Redis is: INFO names no run_id and master_replid")
	}
	if role := infoField(replication.Val(), "role"); role != "master" {
		l.broken = true
		return fmt.Errorf("the Redis is a %s, not a master", role)
	}
	l.instance, l.looked = run+":"+life, before
	l.pool.saw(l.instance)
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

// call runs a script once. Where the answer comes so late that the look at the
// process is old, it is believed only after another look. An error of the
// connection is a *lostError.
func (l *lane) call(ctx context.Context, s *script, keys []string, args ...any) (reply any, err error) {
	return l.ask(ctx, s, 0, keys, args...)
}

func (l *lane) ask(ctx context.Context, s *script, requests int, keys []string, args ...any) (reply any, err error) {
	if time.Since(l.looked) > lookEvery {
		if err := l.look(ctx); err != nil {
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
	if s.instanced && time.Since(l.looked) > lookEvery {
		instance := l.instance
		if err := l.look(ctx); err != nil {
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
		// A READONLY one is a replica now.
		l.broken = strings.HasPrefix(refused.Error(), "READONLY")
		return fmt.Errorf("script %s: %w", s.name, err)
	}
	l.broken = true
	return &lostError{fmt.Errorf("script %s: %w", s.name, err)}
}

// infoField is the value of a field of INFO, "" where it is not there.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
