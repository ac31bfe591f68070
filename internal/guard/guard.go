// Package guard ensures that a panic in a goroutine is logged with what the goroutine was doing.
package guard

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
)

// PanicError is a panic returned as an error.
type PanicError struct {
	Doing string // what the goroutine was doing
	Value any    // the panic's value
	Stack string
}

func (e *PanicError) Error() string { return fmt.Sprintf("%s: panic: %v", e.Doing, e.Value) }

// Run calls f and returns its error. A panic is logged with doing and its stack, and returned as a
// *PanicError.
func Run(log *slog.Logger, doing string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Doing: doing, Value: p, Stack: string(debug.Stack())}
			report(log, err.(*PanicError))
		}
	}()
	return f()
}

// Go calls f in a goroutine that wg waits for. A panic is logged with doing and its stack, and then
// ends the process: no caller would receive an error, and the process would continue without that
// goroutine.
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

// Log is deferred first in a goroutine: a panic is logged with doing and its stack, and continues.
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
