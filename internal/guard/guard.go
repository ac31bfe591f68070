// Package guard keeps a panic in a goroutine from ending a process without a log
// line that says what the goroutine was doing.
package guard

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
)

// PanicError is a panic that became an error.
type PanicError struct {
	Doing string // what the goroutine was doing
	Value any    // what it panicked with
	Stack string
}

func (e *PanicError) Error() string { return fmt.Sprintf("%s: panic: %v", e.Doing, e.Value) }

// Run calls f and returns its error. A panic is logged with what was being done
// and its stack, and becomes a *PanicError.
func Run(log *slog.Logger, doing string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Doing: doing, Value: p, Stack: string(debug.Stack())}
			report(log, err.(*PanicError))
		}
	}()
	return f()
}

// Go calls f in a goroutine that wg waits for. A panic is logged with what was
// being done and its stack, and then ends the process: without an owner for the
// error, a process that carried on would do so without that goroutine.
func Go(wg *sync.WaitGroup, log *slog.Logger, doing string, f func()) {
	wg.Go(func() { Do(log, doing, f) })
}

// Do calls f like Go, in the calling goroutine.
func Do(log *slog.Logger, doing string, f func()) {
	defer func() {
		if p := recover(); p != nil {
			report(log, &PanicError{Doing: doing, Value: p, Stack: string(debug.Stack())})
			panic(p)
		}
	}()
	f()
}

// Log is deferred first in a goroutine: a panic is logged with what the goroutine was
// doing and its stack, and goes on.
//
//	go func() {
//		defer guard.Log("sync gates")
//		...
//	}()
func Log(doing string) {
	if p := recover(); p != nil { // it is called by defer itself
		report(nil, &PanicError{Doing: doing, Value: p, Stack: string(debug.Stack())})
		panic(p)
	}
}

func report(log *slog.Logger, e *PanicError) {
	if log == nil {
		log = slog.Default()
	}
	log.Error("panic", "doing", e.Doing, "panic", fmt.Sprint(e.Value), "stack", e.Stack)
}
