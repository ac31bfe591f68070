//go:build !linux

package devservices

import "syscall"

// dieWithParent needs Linux: elsewhere a server outlives a parent that was killed.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}
