package devservices

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// KafkaGroup is an Apache Kafka of several brokers, each of which is a broker and a controller. New
// topics have a copy on every broker and need a majority in sync.
type KafkaGroup struct {
	Nodes []*Kafka
}

// groupMember is the configuration of a broker in a group.
type groupMember struct {
	node, size int
	voters     string
	cluster    string
}

// StartKafkaGroup starts that many brokers with data under opts.Dir and returns when each accepts
// records. Every broker uses about 350 MB. Errors are those of [StartKafka].
func StartKafkaGroup(ctx context.Context, brokers int, opts KafkaOptions) (*KafkaGroup, error) {
	java, lib, err := findKafka(ctx, opts.NoInstall, quiet(opts.Log))
	if err != nil {
		return nil, err
	}
	cluster := newClusterID()
	controllers, voters := make([]int, brokers), make([]string, brokers)
	for i := range brokers {
		if controllers[i], err = FreePort(); err != nil {
			return nil, err
		}
		voters[i] = strconv.Itoa(i+1) + "@" + loopback(controllers[i])
	}
	g := &KafkaGroup{Nodes: make([]*Kafka, brokers)}
	errs := make([]error, brokers)
	var all sync.WaitGroup
	for i := range brokers { // at the same time: none is ready without a majority
		all.Go(func() {
			dir, lock, err := ownFolder(filepath.Join(opts.Dir, strconv.Itoa(i+1)))
			if err != nil {
				errs[i] = fmt.Errorf("folder for Kafka: %w", err)
				return
			}
			b := &apacheBroker{java: java, lib: lib, dir: dir, controller: controllers[i],
				member: &groupMember{node: i + 1, size: brokers, voters: strings.Join(voters, ","), cluster: cluster}}
			g.Nodes[i], errs[i] = startKafka(ctx, b, fmt.Sprintf("Apache Kafka %s (%s), broker %d", kafkaVersion, lib, i+1), 0, lock)
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, g.Stop(ctx))
	}
	return g, nil
}

// Brokers are the addresses of all brokers.
func (g *KafkaGroup) Brokers() []string {
	var all []string
	for _, k := range g.Nodes {
		all = append(all, k.URL())
	}
	return all
}

// Stop kills all brokers at once: the last one of a group would wait for a
// majority that has gone. What they keep is lost with their folders.
func (g *KafkaGroup) Stop(ctx context.Context) error {
	var errs []error
	for _, k := range g.Nodes {
		if k != nil {
			k.Kill9()
			errs = append(errs, k.Stop(ctx))
		}
	}
	return errors.Join(errs...)
}
