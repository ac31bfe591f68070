package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/tools/devservices"
)

// readyTimeout bounds the start of a process.
const readyTimeout = 30 * time.Second

// system is the whole system, with each role in a separate process.
type system struct {
	dir     string
	binary  string
	env     []string
	keyFile string
	signer  *auth.Signer
	db      string // URL
	command string // base URL
	query   string // base URL
	roles   []*process
	closers []func()
}

// process is one that we started.
type process struct {
	name string
	cmd  *exec.Cmd
}

// startSystem starts services and roles. prepare is called before the roles start, with the
// migrated database. close stops them.
func startSystem(ctx context.Context, prepare ...func(context.Context, *system) error) (_ *system, err error) {
	s := &system{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := s.build(ctx); err != nil {
		return nil, err
	}
	if err := s.services(ctx); err != nil {
		return nil, err
	}
	return s, s.start(ctx, prepare)
}

// build makes the folder, the key and the program.
func (s *system) build(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "dopamine-bench-")
	if err != nil {
		return err
	}
	s.dir, s.binary, s.keyFile = dir, filepath.Join(dir, "dopamine"), filepath.Join(dir, "jwt.key")
	s.closers = append(s.closers, func() { _ = os.RemoveAll(dir) }) // the next boot removes it otherwise
	if err := os.Chmod(dir, 0o755); err != nil {                    // Postgres runs as another user
		return err
	}
	if err := s.key(); err != nil {
		return err
	}
	program := exec.CommandContext(ctx, "go", "build", "-o", s.binary, "./cmd/dopamine")
	if out, err := program.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return nil
}

func (s *system) key() error {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	if err := os.WriteFile(s.keyFile, []byte(base64.RawStdEncoding.EncodeToString(secret)), 0o600); err != nil {
		return err
	}
	var err error
	s.signer, err = auth.NewSigner(auth.SignerConfig{KeyFile: s.keyFile})
	return err
}

// services starts Postgres, Redis and Kafka, and sets their addresses in env.
func (s *system) services(ctx context.Context) error {
	pg, err := devservices.StartPostgres(ctx, devservices.PostgresOptions{Dir: filepath.Join(s.dir, "postgres"), Disposable: true})
	if err != nil {
		return err
	}
	s.onClose(pg.Stop)
	redis, err := devservices.StartRedis(ctx, devservices.RedisOptions{Dir: filepath.Join(s.dir, "redis"), Real: true})
	if err != nil {
		return err
	}
	s.onClose(redis.Stop)
	kafka, err := devservices.StartKafka(ctx, devservices.KafkaOptions{Dir: filepath.Join(s.dir, "kafka")})
	if errors.Is(err, devservices.ErrNotHere) {
		fmt.Fprintln(os.Stderr, "Apache Kafka is not available, using kfake in this process:", err)
		kafka, err = devservices.StartFakeKafka(ctx, devservices.KafkaOptions{})
	}
	if err != nil {
		return err
	}
	s.onClose(kafka.Stop)
	var addrs [3]string // command API, query API, gateway
	for i := range addrs {
		if addrs[i], err = freeAddr(); err != nil {
			return err
		}
	}
	s.db, s.command, s.query = pg.URL(), "http://"+addrs[0], "http://"+addrs[1]
	s.environment(
		"DOPAMINE_DATABASE_URL="+pg.URL(), "DOPAMINE_REDIS_URL="+redis.URL(), "DOPAMINE_KAFKA_BROKERS="+kafka.URL(),
		"DOPAMINE_COMMAND_ADDR="+addrs[0], "DOPAMINE_QUERY_ADDR="+addrs[1], "DOPAMINE_GATEWAY_URL=http://"+addrs[2],
		"DOPAMINE_WEBHOOK_SECRETS=whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 32)))
	return nil
}

// environment returns the processes' environment: this one's, without variables that configure the
// program.
func (s *system) environment(settings ...string) {
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DOPAMINE_") {
			s.env = append(s.env, v)
		}
	}
	s.env = append(append(s.env, "DOPAMINE_JWT_KEY="+s.keyFile, "DOPAMINE_LOG_LEVEL=warn"), settings...)
}

// start migrates, prepares, and runs every role.
func (s *system) start(ctx context.Context, prepare []func(context.Context, *system) error) error {
	migrate := exec.CommandContext(ctx, s.binary, "migrate")
	migrate.Env, migrate.Dir = s.env, s.dir
	if out, err := migrate.CombinedOutput(); err != nil {
		return fmt.Errorf("migrate: %w\n%s", err, out)
	}
	for _, p := range prepare {
		if err := p(ctx, s); err != nil {
			return err
		}
	}
	for _, role := range []string{"command-api", "query-api", "relay", "projector", "worker"} {
		p, err := s.spawn(role, s.binary, role)
		if err != nil {
			return err
		}
		s.roles = append(s.roles, p)
	}
	for _, base := range []string{s.command, s.query} {
		if err := awaitStatus(ctx, base+"/health/ready", http.StatusOK); err != nil {
			return err
		}
	}
	return nil
}

// bare starts the limit of the sold-out response and returns its base URL.
func (s *system) bare(ctx context.Context) (*process, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, "", err
	}
	p, err := s.spawn("bare", self, "bare", addr, s.keyFile)
	if err != nil {
		return nil, "", err
	}
	return p, "http://" + addr, awaitStatus(ctx, "http://"+addr+"/", http.StatusNotFound)
}

func (s *system) spawn(name, path string, args ...string) (*process, error) {
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Dir, cmd.Stderr = s.env, s.dir, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s.closers = append(s.closers, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		late := time.AfterFunc(readyTimeout, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		late.Stop()
	})
	return &process{name: name, cmd: cmd}, nil
}

func (s *system) onClose(stop func(context.Context) error) {
	s.closers = append(s.closers, func() {
		ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
		defer cancel()
		if err := stop(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	})
}

// close stops everything, the last started first.
func (s *system) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
}

func (s *system) token(user uuid.UUID, role string) (string, error) {
	return s.signer.Sign(user, auth.RoleNamed(role), time.Hour)
}

func freeAddr() (string, error) {
	port, err := devservices.FreePort()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// awaitStatus polls until the response has the status.
func awaitStatus(ctx context.Context, url string, status int) error {
	const pause = 20 * time.Millisecond
	for deadline := time.Now().Add(readyTimeout); ; {
		resp, err := http.Get(url) //nolint:gosec // an address of our own
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == status {
				return nil
			}
			err = fmt.Errorf("status %d", resp.StatusCode)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s did not become ready within %s: %w", url, readyTimeout, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}
