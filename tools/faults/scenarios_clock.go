package main

import (
	"context"
	_ "embed" // the clock's source
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dopaminestore/dopamine/tools/devservices"
)

// stepClock is the source of a library that steps a server's clock.
//
//go:embed stepclock.c.txt
var stepClock []byte

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

// withClock runs start with a wall clock that can be stepped.
func (f *fleet) withClock(ctx context.Context, start func() error) error {
	library := filepath.Join(f.services.dir, "stepclock.so")
	if _, err := os.Stat(library); err != nil {
		source := filepath.Join(f.services.dir, "stepclock.c")
		if err := os.WriteFile(source, stepClock, 0o644); err != nil {
			return err
		}
		if out, err := exec.CommandContext(ctx, "cc", "-O2", "-shared", "-fPIC", "-o", library, source).CombinedOutput(); err != nil {
			return fmt.Errorf("NOT RUN: needs a C compiler (Debian: apt-get install gcc libc6-dev): %w: %s", err, out)
		}
	}
	f.clock = filepath.Join(f.dir, "clock")
	if err := os.WriteFile(f.clock, make([]byte, 8), 0o644); err != nil {
		return err
	}
	// Inherited by the server that is started now, and by nothing else.
	settings := map[string]string{"LD_PRELOAD": library, "STEPCLOCK": f.clock}
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
	return f.withClock(ctx, func() (err error) {
		f.redis, err = devservices.StartRedis(ctx, devservices.RedisOptions{Real: true})
		return err
	})
}

func postgresWithClock(ctx context.Context, f *fleet) error {
	return f.withClock(ctx, func() (err error) {
		f.postgres, err = devservices.StartPostgres(ctx, devservices.PostgresOptions{Dir: f.dir + "/primary", Disposable: true, NoFsync: true, Settings: committed})
		return err
	})
}

// stepClock steps a server's clock, waits, and steps it back.
func (r *run) stepClock(server string, by time.Duration) error {
	set := func(offset time.Duration) error {
		file, err := os.OpenFile(r.fleet.clock, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = file.Write(binary.NativeEndian.AppendUint64(nil, uint64(offset.Nanoseconds())))
		return errors.Join(err, file.Close())
	}
	if err := set(by); err != nil {
		return err
	}
	r.struck("the clock of %s was stepped by %s", server, by)
	r.wait(r.between(leaseTime, leaseTime+2*time.Second))
	if err := set(0); err != nil {
		return err
	}
	r.struck("the clock of %s was stepped back", server)
	r.wait(r.duration / 2)
	return nil
}

// postgresOnSmallDisk puts the server on a separate file system in memory.
func postgresOnSmallDisk(ctx context.Context, f *fleet) (err error) {
	disk := filepath.Join(f.dir, "disk")
	if err := os.MkdirAll(disk, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=400m,mode=755"); err != nil {
		return fmt.Errorf("NOT RUN: needs the right to mount a file system: %w", err)
	}
	f.smallDisk = disk
	f.postgres, err = devservices.StartPostgres(ctx, devservices.PostgresOptions{Dir: disk + "/primary", Disposable: true,
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
