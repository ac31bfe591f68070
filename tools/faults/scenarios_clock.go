package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dopaminestore/dopamine/internal/stack"
)

// libfaketime is Debian's package of that name.
const libfaketime = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"

var clockScenarios = []*scenario{
	{name: "redis-clock-forward", once: true, about: "Redis' clock is stepped forward, and back", clockOf: "redis", play: func(r *run) error {
		return r.stepClock("Redis", +time.Hour)
	}},
	{name: "redis-clock-back", once: true, about: "Redis' clock is stepped back, and forward", clockOf: "redis", play: func(r *run) error {
		r.wait(3 * time.Second) // no further back than the sale's begin
		return r.stepClock("Redis", -4*time.Second)
	}},
	{name: "postgres-clock-forward", once: true, about: "Postgres' clock is stepped forward, and back", clockOf: "postgres", postgres: postgresWithClock, play: func(r *run) error {
		return r.stepClock("Postgres", +r.between(5*time.Second, 12*time.Second))
	}},
	{name: "postgres-clock-back", once: true, about: "Postgres' clock is stepped back by an hour, and forward", clockOf: "postgres", postgres: postgresWithClock, play: func(r *run) error {
		return r.stepClock("Postgres", -time.Hour)
	}},
	{name: "postgres-disk-full", once: true, about: "the disk of Postgres is full, and has room again", postgres: postgresOnSmallDisk, play: func(r *run) error {
		if r.fleet.smallDisk == "" {
			return nil
		}
		ballast := filepath.Join(r.fleet.smallDisk, "ballast")
		if err := fill(ballast); err != nil {
			return err
		}
		var before int64
		_ = r.fleet.db.QueryRow(r.ctx, "select coalesce(max(position), 0) from events").Scan(&before)
		r.wait(max(r.duration, 6*time.Second))
		r.struck("the disk was full")
		if err := os.Remove(ballast); err != nil {
			return err
		}
		// A server that could not write its log has ended: an operator starts it.
		select {
		case <-r.fleet.postgres.Done():
			r.verdict.note("Postgres ended while its disk was full and was restarted")
			return r.fleet.postgres.Restart(r.ctx)
		default:
			return nil
		}
	}},
}

// withClock runs start with a clock that follows a file.
func (f *fleet) withClock(start func() error) error {
	if _, err := os.Stat(libfaketime); err != nil {
		return fmt.Errorf("NOT RUN: needs libfaketime (Debian: apt-get install libfaketime): %w", err)
	}
	f.clock = filepath.Join(f.dir, "clock")
	if err := os.WriteFile(f.clock, []byte("+0"), 0o644); err != nil {
		return err
	}
	// Inherited by the server that is started now, and by nothing else.
	settings := map[string]string{"LD_PRELOAD": libfaketime, "FAKETIME_TIMESTAMP_FILE": f.clock, "FAKETIME_NO_CACHE": "1",
		"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1"}
	for name, value := range settings {
		_ = os.Setenv(name, value)
	}
	defer func() {
		for name := range settings {
			_ = os.Unsetenv(name)
		}
	}()
	return start()
}

func (f *fleet) startRedisWithClock(ctx context.Context) error {
	f.ownRedis = true
	return f.withClock(func() (err error) {
		f.redis, err = stack.StartRedis(ctx, stack.RedisOptions{Real: true})
		return err
	})
}

func postgresWithClock(ctx context.Context, f *fleet) error {
	return f.withClock(func() (err error) {
		f.postgres, err = stack.StartPostgres(ctx, stack.PostgresOptions{Dir: f.dir + "/primary", Disposable: true, NoFsync: true})
		return err
	})
}

// stepClock steps a server's clock, waits, and steps it back.
func (r *run) stepClock(server string, by time.Duration) error {
	write := func(offset string) error {
		if err := os.WriteFile(r.fleet.clock+".new", []byte(offset), 0o644); err != nil {
			return err
		}
		return os.Rename(r.fleet.clock+".new", r.fleet.clock)
	}
	if err := write(fmt.Sprintf("%+d", int(by.Seconds()))); err != nil {
		return err
	}
	r.struck("the clock of %s was stepped by %s", server, by)
	r.wait(r.between(leaseTime, leaseTime+2*time.Second))
	if err := write("+0"); err != nil {
		return err
	}
	r.struck("the clock of %s was stepped back", server)
	r.wait(r.duration / 2)
	return nil
}

// postgresOnSmallDisk puts the server on a file system of its own in memory.
func postgresOnSmallDisk(ctx context.Context, f *fleet) (err error) {
	disk := filepath.Join(f.dir, "disk")
	if err := os.MkdirAll(disk, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=400m,mode=755"); err != nil {
		return fmt.Errorf("NOT RUN: needs the right to mount a file system: %w", err)
	}
	f.smallDisk = disk
	f.postgres, err = stack.StartPostgres(ctx, stack.PostgresOptions{Dir: disk + "/primary", Disposable: true,
		Settings: map[string]string{"max_wal_size": "64MB", "min_wal_size": "32MB", "shared_buffers": "32MB"}})
	return err
}

// fill writes a file until the disk has no room.
func fill(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	block := make([]byte, 1<<20)
	for size := len(block); size >= 4096; size /= 2 {
		for {
			if _, err := f.Write(block[:size]); err != nil {
				if !errors.Is(err, syscall.ENOSPC) {
					return err
				}
				break
			}
		}
	}
	return nil
}
