package topology

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/dopaminestore/dopamine/internal/guard"
)

const (
	// probeKey is written by health checks. It is not part of a gate.
	probeKey = "dopamine:health"
	// probeKeyTTL removes the key of a system that no longer runs.
	probeKeyTTL = time.Minute
)

// Health checks for each master that it is one and accepts a write.
func (n *Topology) Health(ctx context.Context) (serving, all int, err error) {
	masters := n.masters()
	errs := make([]error, len(masters))
	var wg sync.WaitGroup
	for i, l := range masters {
		wg.Go(func() {
			defer guard.Log("probe masters")
			errs[i] = l.with(ctx, func(ln *Conn) error {
				if err := ln.Identify(ctx); err != nil {
					return err
				}
				if err := n.probeWrite(ctx, l, ln); err != nil || !n.cluster {
					return err
				}
				info, err := ln.Redis.ClusterInfo(ctx).Result()
				if err == nil && infoField(info, "cluster_state") != "ok" {
					err = errors.New("the cluster's state is not ok")
				}
				return err
			})
			if errs[i] != nil {
				errs[i] = fmt.Errorf("redis at %s: %w", l.Addr, errs[i])
			}
		})
	}
	wg.Wait()
	all = max(1, len(masters))
	for _, err := range errs {
		if err == nil {
			serving++
		}
	}
	if slices.Contains(n.slotTable.Load().slots, nil) && len(masters) > 0 {
		all++ // slots without a master
	}
	if serving < all {
		n.scheduleRefresh()
	}
	if len(masters) == 0 {
		errs = append(errs, ErrNoMaster)
	}
	return serving, all, errors.Join(errs...)
}

// probeWrite writes a key in the master's own slots, as a decision would: a master
// without enough replicas, out of memory, read-only or unable to save still answers reads.
func (n *Topology) probeWrite(ctx context.Context, l *Server, ln *Conn) error {
	key, ok := n.probeKeyOf(l)
	if !ok {
		return nil // it no longer has a slot
	}
	if err := ln.Redis.Set(ctx, key, 1, probeKeyTTL).Err(); err != nil {
		ln.broken = true
		return fmt.Errorf("accepts no writes: %w", err)
	}
	return nil
}

// probeKeyOf returns a key in one of the master's slots: in a cluster, the first
// of dopamine:health:{0}, {1}, … that is in one.
func (n *Topology) probeKeyOf(l *Server) (string, bool) {
	slots := n.slotTable.Load().slots
	if len(slots) == 1 {
		return n.opts.KeyPrefix + probeKey, true
	}
	for i := range 8 * slotsAll {
		key := n.opts.KeyPrefix + probeKey + ":{" + strconv.Itoa(i) + "}"
		if slots[slotOf(key)] == l {
			return key, true
		}
	}
	return "", false
}

// ClockSkew returns how far the clock of a master is ahead of this process's, the
// largest difference if there are several masters, and the uncertainty of the
// measurement, half of the call's duration.
func (n *Topology) ClockSkew(ctx context.Context) (ahead, uncertainty time.Duration, err error) {
	err = ErrNoMaster
	for _, l := range n.masters() {
		failed := l.with(ctx, func(ln *Conn) error {
			sent := time.Now()
			theirs, err := ln.Redis.Time(ctx).Result()
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
		return 0, 0, err
	}
	return ahead, uncertainty, nil
}
