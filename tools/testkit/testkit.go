package testkit

import (
	"crypto/rand"
	"encoding/hex"
	"testing"
	"time"
)

// Eventually polls check until it returns nil, and fails the test with what was
// awaited and check's last error when that took longer than within.
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

// unique gives 24 hexadecimal digits that nobody else has.
func unique() string {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
