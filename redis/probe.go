package redis

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

const (
	// probeKey is written by health checks. It is not part of a gate.
	probeKey = "dopamine:health"
	// probeKeyTTL removes the key of a system that no longer runs.
	probeKeyTTL = time.Minute
)

// probeWrite writes a key in the master's own slots, as a decision would: a master
// without enough replicas, out of memory, read-only or unable to save still answers reads.
func (n *nodes) probeWrite(ctx context.Context, l *lanes, ln *lane) error {
	key, ok := n.probeKeyOf(l)
	if !ok {
		return nil // it no longer has a slot
	}
	if err := ln.conn.Set(ctx, key, 1, probeKeyTTL).Err(); err != nil {
		ln.broken = true
		return fmt.Errorf("accepts no writes: %w", err)
	}
	return nil
}

// probeKeyOf returns a key in one of the master's slots: in a cluster, the first
// of dopamine:health:{0}, {1}, … that is in one.
func (n *nodes) probeKeyOf(l *lanes) (string, bool) {
	slots := n.slotTable.Load().slots
	if len(slots) == 1 {
		return n.keyPrefix + probeKey, true
	}
	for i := range 8 * slotsAll {
		key := n.keyPrefix + probeKey + ":{" + strconv.Itoa(i) + "}"
		if slots[slotOf(key)] == l {
			return key, true
		}
	}
	return "", false
}

// ClockSkew returns how far the clock of a master is ahead of this process's, the
// largest difference if there are several masters, and the uncertainty of the
// measurement, half of the call's duration.
func (g *Gate) ClockSkew(ctx context.Context) (ahead, uncertainty time.Duration, err error) {
	err = errNoMaster
	for _, l := range g.nodes.masters() {
		failed := l.with(ctx, func(ln *lane) error {
			sent := time.Now()
			theirs, err := ln.conn.Time(ctx).Result()
			if err != nil {
				ln.broken = true
				return err
			}
			half := time.Since(sent) / 2
			if skew := theirs.Sub(sent.Add(half)); skew.Abs() >= ahead.Abs() {
				ahead, uncertainty = skew, half
			}
			return nil
		})
		if failed == nil {
			err = nil
		}
	}
	if err != nil {
		return 0, 0, unavailable("read the masters' clocks", err)
	}
	return ahead, uncertainty, nil
}
