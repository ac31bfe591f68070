package testkit

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"
)

// Eventually polls check until it returns nil. If that takes longer than within, it fails the test
// with what was awaited and check's last error.
func Eventually(tb testing.TB, within time.Duration, what string, check func() error) {
	tb.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("waited %s for %s: %v", within, what, err)
		}
		<-tick.C
	}
}

// EventuallyTrue is Eventually for a condition.
func EventuallyTrue(tb testing.TB, within time.Duration, what string, holds func() bool) {
	tb.Helper()
	Eventually(tb, within, what, func() error {
		if !holds() {
			return errors.New("not yet")
		}
		return nil
	})
}

// EventuallyEqual is Eventually for a value that becomes want.
func EventuallyEqual[T any](tb testing.TB, within time.Duration, what string, want T, value func() T) {
	tb.Helper()
	Eventually(tb, within, what, func() error {
		if got := value(); !reflect.DeepEqual(want, got) {
			return fmt.Errorf("got %+v, want %+v", got, want)
		}
		return nil
	})
}

// unique returns 24 random hexadecimal digits.
func unique() string {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
