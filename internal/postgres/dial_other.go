//go:build !linux

package postgres

import "syscall"

// limitRetransmission has no portable equivalent.
func limitRetransmission(string, string, syscall.RawConn) error { return nil }
