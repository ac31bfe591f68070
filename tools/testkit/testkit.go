package testkit

import (
	"crypto/rand"
	"encoding/hex"
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

// unique returns 24 random hexadecimal digits.
func unique() string {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
