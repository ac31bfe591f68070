package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of processor time in /proc: USER_HZ, 100 on every Linux that Go supports.
const tick = 10 * time.Millisecond

// cpu returns the processor time that the process has used.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold anything; utime and stime are the 12th and
	// 13th field behind it.
	const utime, stime = 11, 12
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) <= stime {
		return 0, fmt.Errorf("processor time of %s: %q", p.name, stat)
	}
	user, err := strconv.ParseInt(f[utime], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(f[stime], 10, 64)
	return time.Duration(user+system) * tick, err
}

// resident returns the process's resident set in MiB.
func (p *process) resident() (float64, error) {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(statm))
	if len(f) < 2 {
		return 0, fmt.Errorf("memory of %s: %q", p.name, statm)
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	return float64(pages) * float64(os.Getpagesize()) / (1 << 20), err
}
