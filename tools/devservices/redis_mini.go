package devservices

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
)

// miniTick is the maximum delay of a key's expiry in miniredis.
const miniTick = 50 * time.Millisecond

// mini is miniredis with what the gate needs of a Redis and miniredis lacks: its identity (INFO),
// its eviction policy (CONFIG GET maxmemory-policy), and keys that expire with time.
type mini struct {
	redis *miniredis.Miniredis
	stop  chan struct{}
	clock sync.WaitGroup
}

func startMini(port int) (*mini, error) {
	m := &mini{redis: miniredis.NewMiniRedis(), stop: make(chan struct{})}
	if err := m.redis.StartAddr(loopback(port)); err != nil {
		return nil, fmt.Errorf("miniredis: %w", err)
	}
	m.redis.Server().SetPreHook(answersFor(randomHex(20), randomHex(20)))
	m.clock.Go(m.expire)
	return m, nil
}

// expire advances miniredis' clock, which does not advance otherwise.
func (m *mini) expire() {
	tick := time.NewTicker(miniTick)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-m.stop:
			return
		case now := <-tick.C:
			m.redis.FastForward(now.Sub(last))
			last = now
		}
	}
}

func (m *mini) close() {
	close(m.stop)
	m.clock.Wait()
	m.redis.Close()
}

// answersFor answers INFO for the sections server and replication, and CONFIG GET.
func answersFor(runID, replID string) server.Hook {
	sections := map[string]string{
		"server": "# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\nrun_id:" + runID + "\r\n",
		"replication": "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\n" +
			"master_replid:" + replID + "\r\nmaster_replid2:" + strings.Repeat("0", 40) + "\r\nmaster_repl_offset:0\r\n",
	}
	return func(c *server.Peer, cmd string, args ...string) bool {
		switch {
		case cmd == "INFO":
			text := infoText(sections, args)
			if text == "" {
				return false
			}
			c.WriteBulk(text)
			return true
		case cmd == "CONFIG" && len(args) == 2 && strings.EqualFold(args[0], "GET"):
			if !strings.EqualFold(args[1], "maxmemory-policy") {
				c.WriteMapLen(0)
				return true
			}
			c.WriteMapLen(1)
			c.WriteBulk("maxmemory-policy")
			c.WriteBulk("noeviction")
			return true
		default:
			return false
		}
	}
}

// infoText returns "" if none of the requested sections is known.
func infoText(sections map[string]string, asked []string) string {
	if len(asked) == 0 {
		asked = []string{"all"}
	}
	var parts []string
	for _, name := range asked {
		switch name = strings.ToLower(name); name {
		case "all", "default", "everything":
			return sections["server"] + "\r\n" + sections["replication"]
		default:
			if text, ok := sections[name]; ok {
				parts = append(parts, text)
			}
		}
	}
	return strings.Join(parts, "\r\n")
}

// randomHex returns 2n hexadecimal digits.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
