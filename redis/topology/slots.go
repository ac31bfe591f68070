package topology

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	goredis "github.com/redis/go-redis/v9"
)

// slotsAll is the number of hash slots of a Redis Cluster.
const slotsAll = 16384

// slotOf returns the hash slot of a key: CRC-16 (XMODEM) of its hash tag, modulo
// slotsAll, as in the Redis Cluster specification.
func slotOf(key string) int {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			key = tag
		}
	}
	var crc uint16
	for i := range len(key) {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^key[i]]
	}
	return int(crc % slotsAll)
}

var crcTable = func() (table [256]uint16) {
	for i := range table {
		crc := uint16(i) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
		table[i] = crc
	}
	return table
}()

// slotMap collects the owners of the slots from the views of several nodes. If two views
// disagree, the higher configuration epoch is the later one: an old
// master that was cut off or paused still names itself.
type slotMap struct {
	owner [slotsAll]string // host:port, "" if unknown
	epoch [slotsAll]int64
	nodes []string // all nodes, including replicas: the servers to query next time
}

// add merges one node's view, its reply to CLUSTER NODES.
func (m *slotMap) add(view, askedAt string) error {
	asked, _, _ := net.SplitHostPort(askedAt)
	found := false
	for line := range strings.Lines(view) {
		fields := strings.Fields(line)
		if len(fields) < 8 {
			continue
		}
		flags := "," + fields[2] + ","
		if strings.Contains(flags, ",noaddr,") || strings.Contains(flags, ",handshake,") {
			continue
		}
		addr, ok := nodeAddr(fields[1], asked)
		epoch, err := strconv.ParseInt(fields[6], 10, 64)
		if !ok || err != nil {
			return fmt.Errorf("invalid line of CLUSTER NODES: %q", line)
		}
		found = true
		m.nodes = append(m.nodes, addr)
		if !strings.Contains(flags, ",master,") {
			continue
		}
		for _, slots := range fields[8:] {
			if strings.HasPrefix(slots, "[") { // migrating, not yet the target's
				continue
			}
			first, last, isRange := strings.Cut(slots, "-")
			if !isRange {
				last = first
			}
			from, err1 := strconv.Atoi(first)
			to, err2 := strconv.Atoi(last)
			if err1 != nil || err2 != nil || from < 0 || to >= slotsAll {
				return fmt.Errorf("invalid line of CLUSTER NODES: %q", line)
			}
			for slot := from; slot <= to; slot++ {
				if m.owner[slot] == "" || epoch > m.epoch[slot] {
					m.owner[slot], m.epoch[slot] = addr, epoch
				}
			}
		}
	}
	if !found {
		return errors.New("CLUSTER NODES names no node")
	}
	return nil
}

// nodeAddr parses ip:port@busport[,hostname[,…]]. A node that does not know its own
// ip is addressed by its name, or by the address that was queried.
func nodeAddr(text, asked string) (string, bool) {
	where, names, _ := strings.Cut(text, ",")
	where, _, _ = strings.Cut(where, "@")
	colon := strings.LastIndexByte(where, ':')
	if colon < 0 {
		return "", false
	}
	host, port := where[:colon], where[colon+1:]
	if name, _, _ := strings.Cut(names, ","); host == "" && !strings.Contains(name, "=") {
		host = name
	}
	if host == "" {
		host = asked
	}
	return net.JoinHostPort(host, port), host != "" && port != ""
}

// isCluster reports whether a server is a node of a Redis Cluster.
func isCluster(ctx context.Context, c *goredis.Client) (bool, error) {
	info, err := c.Info(ctx, "cluster").Result()
	var refused goredis.Error
	if errors.As(err, &refused) && !goredis.IsLoadingError(err) && !goredis.IsAuthError(err) {
		return false, nil // the server does not know cluster mode
	}
	return infoField(info, "cluster_enabled") == "1", err
}
