//go:build !linux

package stack

import "syscall"

// dieWithParent needs Linux: elsewhere a server outlives a parent that was killed.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}
