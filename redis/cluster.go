package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	goredis "github.com/redis/go-redis/v9"
)

// slotsAll is how many hash slots a Redis Cluster has.
const slotsAll = 16384

// slotOf is the hash slot of a key: CRC-16 (XMODEM) of its hash tag, modulo
// slotsAll, after the Redis Cluster specification.
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

// slotMap says who has the slots, as far as those who were asked know. Where two
// say differently, the higher configuration epoch is the later truth: an old
// master that was cut off, or slept, still names itself.
type slotMap struct {
	owner [slotsAll]string // host:port, "" for nobody
	epoch [slotsAll]int64
	nodes []string // all, replicas too: whom to ask the next time
}

// add takes a node's own view, the answer to CLUSTER NODES.
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
			return fmt.Errorf("a line of CLUSTER NODES cannot be read: %q", line)
		}
		found = true
		m.nodes = append(m.nodes, addr)
		if !strings.Contains(flags, ",master,") {
			continue
		}
		for _, slots := range fields[8:] {
			if strings.HasPrefix(slots, "[") { // on its way, not yet another's
				continue
			}
			first, last, isRange := strings.Cut(slots, "-")
			if !isRange {
				last = first
			}
			from, err1 := strconv.Atoi(first)
			to, err2 := strconv.Atoi(last)
			if err1 != nil || err2 != nil || from < 0 || to >= slotsAll {
				return fmt.Errorf("a line of CLUSTER NODES cannot be read: %q", line)
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

// nodeAddr reads ip:port@busport[,hostname[,…]]. A node that does not know its own
// ip is under its name, or where it was asked.
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

// isCluster asks a server whether it is a node of a Redis Cluster.
func isCluster(ctx context.Context, c *goredis.Client) (bool, error) {
	info, err := c.Info(ctx, "cluster").Result()
	var refused goredis.Error
	if errors.As(err, &refused) && !goredis.IsLoadingError(err) && !goredis.IsAuthError(err) {
		return false, nil // it knows of no such thing
	}
	return infoField(info, "cluster_enabled") == "1", err
}
