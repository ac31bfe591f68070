package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dopaminestore/dopamine/tools/devservices"
)

var kafkaScenarios = []*scenario{
	{name: "kafka-kill", about: "kill -9 of the broker, restarted", realKafka: true, play: func(r *run) error {
		return r.repeat(func() error { r.struck("kill -9 of Kafka, restarted"); return r.fleet.kafka.Restart(r.ctx) }, 2*time.Second)
	}},
	{name: "kafka-one-of-three", about: "kill -9 of one of three brokers, restarted", kafka: threeBrokers, play: func(r *run) error {
		return r.repeat(func() error {
			i := r.rand.IntN(3)
			r.struck("kill -9 of broker %d of 3", i+1)
			r.fleet.kafkaGroup.Nodes[i].Kill9()
			r.wait(r.between(2*time.Second, 4*time.Second))
			return r.fleet.kafkaGroup.Nodes[i].Restart(r.ctx)
		}, 2*time.Second)
	}},
	{name: "kafka-away", once: true, about: "the broker is unavailable for a minute", realKafka: true, play: func(r *run) error {
		r.struck("Kafka is unavailable")
		r.fleet.kafka.Kill9()
		r.wait(max(10*r.duration, time.Minute))
		return r.fleet.kafka.Restart(r.ctx)
	}},
	{name: "topic-deleted", once: true, about: "the topic is deleted under running processes", realKafka: true, mayRefuse: true, play: func(r *run) error {
		r.struck("the topic was deleted")
		if err := deleteTopic(r.ctx, r.fleet.brokers, r.fleet.topic); err != nil {
			return err
		}
		r.wait(r.duration)
		return nil
	}},
	{name: "topic-repartitioned", once: true, about: "the topic is recreated with another number of partitions, then with the right one", realKafka: true, mayRefuse: true, play: func(r *run) error {
		// While the relays are down no process recreates the topic.
		for _, p := range r.fleet.of("relay") {
			if err := p.hold(); err != nil {
				return err
			}
		}
		if err := r.remakeTopic(1); err != nil {
			return err
		}
		r.struck("the topic was recreated with 1 partition")
		for _, p := range r.fleet.of("relay") {
			p.release()
		}
		r.wait(max(r.duration, 8*time.Second))
		return nil
	}, heal: func(r *run) error {
		// What the relay's refusal advises: a topic with the configured number.
		for _, p := range r.fleet.of("relay") {
			_ = p.hold()
		}
		err := r.remakeTopic(12)
		for _, p := range r.fleet.of("relay") {
			p.release()
		}
		return err
	}},
	{name: "retention-passed", once: true, about: "records are deleted before a projector has read them", realKafka: true, play: func(r *run) error {
		for _, p := range r.fleet.of("projector") {
			if err := p.hold(); err != nil {
				return err
			}
		}
		r.wait(r.duration / 2)
		if err := r.deleteRecords(); err != nil {
			return err
		}
		r.struck("every record was deleted while the projectors were down")
		for _, p := range r.fleet.of("projector") {
			p.release()
		}
		r.wait(r.duration / 2)
		r.fleet.trimmed = true
		return nil
	}},
	{name: "registry-slow", about: "the schema registry takes a second for each call, then is unavailable", registry: true, play: func(r *run) error {
		before := r.fleet.registry.called()
		r.fleet.registry.set(700*time.Millisecond, false)
		for _, p := range r.fleet.of("relay") {
			if err := p.kill(); err != nil { // the next term registers again
				return err
			}
		}
		r.wait(max(2*r.duration, 15*time.Second))
		r.fleet.registry.set(0, true)
		r.wait(r.duration / 2)
		r.fleet.registry.set(0, false)
		if r.fleet.registry.called() > before {
			r.struck("the registry was slow, then unavailable (%d calls)", r.fleet.registry.called()-before)
		}
		return nil
	}},
}

// remakeTopic deletes the topic and creates it again.
func (r *run) remakeTopic(partitions int32) error {
	f := r.fleet
	if err := deleteTopic(r.ctx, f.brokers, f.topic); err != nil {
		return err
	}
	return withAdmin(f.brokers, func(admin *kadm.Client) error {
		keep := "-1"
		return poll(r.ctx, pollInterval, "the topic to be made", func() error {
			answer, err := admin.CreateTopic(r.ctx, partitions, 1, map[string]*string{"retention.ms": &keep, "retention.bytes": &keep}, f.topic)
			if err == nil {
				err = answer.Err
			}
			return err
		})
	})
}

// deleteRecords moves the start of every partition to its end, as retention does.
func (r *run) deleteRecords() error {
	ctx, cancel := context.WithTimeout(r.ctx, 20*time.Second)
	defer cancel()
	return withAdmin(r.fleet.brokers, func(admin *kadm.Client) error {
		ends, err := admin.ListEndOffsets(ctx, r.fleet.topic)
		if err != nil {
			return err
		}
		answer, err := admin.DeleteRecords(ctx, ends.Offsets())
		if err == nil {
			err = answer.Error()
		}
		if err != nil {
			return fmt.Errorf("delete records: %w", err)
		}
		return nil
	})
}

func withAdmin(brokers []string, do func(*kadm.Client) error) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return err
	}
	defer client.Close()
	return do(kadm.NewClient(client))
}

func threeBrokers(ctx context.Context, f *fleet) (brokers []string, err error) {
	if f.kafkaGroup, err = devservices.StartKafkaGroup(ctx, 3, devservices.KafkaOptions{Dir: filepath.Join(f.dir, "kafka")}); err != nil {
		return nil, err
	}
	return f.kafkaGroup.Brokers(), nil
}
