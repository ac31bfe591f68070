package devservices

import "syscall"

// dieWithParent has the kernel send sig to the child when we are gone.
func dieWithParent(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }
