package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dopaminestore/dopamine/internal/guard"
)

// shutdownLimit is how long a process may take to finish what it accepted. Together with closeLeast
// it stays below the ten seconds that are promised.
const shutdownLimit = 9 * time.Second

// sharedDrain is how much of an API's drain delay is part of shutdownLimit; the rest is added to
// it.
const sharedDrain = 5 * time.Second

// shutdownLimitWith returns the limit of a process that continues to serve for the drain delay.
func shutdownLimitWith(drain time.Duration) time.Duration {
	return shutdownLimit + max(0, drain-sharedDrain)
}

// unlessStopped returns the error of a process's start, nil if it failed because the process was
// stopped meanwhile.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// service is one long-lived part of the program.
type service struct {
	name  string
	run   func(context.Context) error // until the context ends; nil then
	ready <-chan struct{}             // nil: at once
}

// serve runs stages of services until ctx ends or one of them fails. It stops the first stage
// first, and each next one when that has ended: a service that accepts requests stops before the
// one that executes them. ready is called when all are ready.
//
// limit is how long they may take to end.
func serve(ctx context.Context, limit time.Duration, ready func(), stages ...[]service) error {
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	type stage struct {
		cancel context.CancelFunc
		done   sync.WaitGroup
	}
	running := make([]*stage, len(stages))
	var mu sync.Mutex
	var errs []error
	for i, services := range stages {
		// Not the parent context: a stage ends only when its turn has come.
		stageCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		running[i] = &stage{cancel: cancel}
		for _, s := range services {
			running[i].done.Go(func() {
				defer guard.Log("run a service")
				err := guard.Run(nil, "run "+s.name, func() error { return s.run(stageCtx) })
				switch {
				case stageCtx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)):
					return
				case err == nil:
					err = errors.New("ended unexpectedly")
				}
				err = fmt.Errorf("%s: %w", s.name, err)
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
				fail(err)
			})
		}
	}
	go func() {
		defer guard.Log("await that services are ready")
		for _, services := range stages {
			for _, s := range services {
				if s.ready == nil {
					continue
				}
				select {
				case <-s.ready:
				case <-failed.Done():
					return
				}
			}
		}
		if failed.Err() == nil && ready != nil {
			ready()
		}
	}()
	<-failed.Done()

	stopped := make(chan struct{})
	go func() {
		defer guard.Log("stop services")
		defer close(stopped)
		for _, s := range running {
			s.cancel()
			s.done.Wait()
		}
	}()
	select {
	case <-stopped:
	case <-time.After(limit):
		mu.Lock()
		errs = append(errs, fmt.Errorf("not stopped within %s", limit))
		mu.Unlock()
		for _, s := range running {
			s.cancel()
		}
	}
	mu.Lock()
	defer mu.Unlock()
	return errors.Join(errs...)
}
