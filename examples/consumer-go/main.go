// Command consumer-go reads the product events from Kafka through Watermill and keeps a view of
// them in memory, rebuilt at each start: every event once, in order per product.
//
//	go run ./examples/consumer-go --brokers localhost:9092 --schemas avsc/published
//
// It prints one line of JSON for each event, and for each finding: a repeat, a gap, a record
// without a value, an incarnation. docs/consumers.md explains them. It imports no package of
// this module.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
)

type options struct {
	brokers, topic, schemas, registry string
	gapTimeout, idle                  time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.brokers, "brokers", "localhost:9092", "brokers, comma-separated")
	flag.StringVar(&o.topic, "topic", "dopamine.product-events.v1", "topic")
	flag.StringVar(&o.schemas, "schemas", "", "folder of the schemas: every version that was ever written")
	flag.StringVar(&o.registry, "registry", "", "URL of the schema registry")
	flag.DurationVar(&o.gapTimeout, "gap-timeout", 30*time.Second, "time after which a missing record is reported")
	flag.DurationVar(&o.idle, "idle", 0, "exit after this time without a record, once there was one; 0: run until interrupted")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	schemas, err := loadSchemas(o.schemas, o.registry)
	if err != nil {
		return err
	}
	config := kafka.DefaultSaramaSubscriberConfig()
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Metadata.AllowAutoTopicCreation = false // the relay creates the topic
	// Without a group, every partition is read from its start: the view is in memory. A view
	// that is kept stores its checkpoint in the transaction of its rows, see consumer-python.
	sub, err := kafka.NewSubscriber(kafka.SubscriberConfig{
		Brokers: strings.Split(o.brokers, ","), Unmarshaler: kafka.DefaultMarshaler{}, OverwriteSaramaConfig: config,
	}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	defer func() { _ = sub.Close() }()
	messages, err := sub.Subscribe(ctx, o.topic)
	if err != nil {
		return err
	}

	v := view{schemas: schemas, partitions: map[int32]*partition{}, gapTimeout: o.gapTimeout}
	ticks := time.NewTicker(200 * time.Millisecond)
	defer ticks.Stop()
	var last time.Time // of the last record
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				return nil
			}
			last = time.Now()
			if err := v.take(m); err != nil {
				return err
			}
			m.Ack()
		case <-ticks.C:
			v.checkGaps()
			if o.idle > 0 && !last.IsZero() && time.Since(last) > o.idle {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// record is an event's message with its headers read.
type record struct {
	partition          int32
	key, id, kind      string
	position, previous int64
	store              string
	incarnation        int64
	value              []byte // nil: no value
}

func read(m *message.Message) (r record, err error) {
	r = record{id: m.Metadata.Get("event-id"), kind: m.Metadata.Get("event-type"), value: m.Payload}
	r.partition, _ = kafka.MessagePartitionFromCtx(m.Context())
	key, _ := kafka.MessageKeyFromCtx(m.Context())
	r.key = string(key)
	var failed error
	number := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		failed = cmp.Or(failed, err)
		return n
	}
	r.position, r.previous = number(m.Metadata.Get("position")), number(m.Metadata.Get("previous-position"))
	store, incarnation, _ := strings.Cut(m.Metadata.Get("store"), "/")
	r.store, r.incarnation = store, number(cmp.Or(incarnation, "1"))
	return r, failed
}

// partition is how far one partition was read.
type partition struct {
	position, incarnation int64
	held                  map[int64]record // by previous-position: they wait for a missing record
	since                 time.Time        // when the oldest of held arrived
	reported              bool
}

// view is what is kept; here the last position and the slots held of each product.
type view struct {
	schemas    *schemas
	partitions map[int32]*partition
	store      string
	gapTimeout time.Duration
}

func (v *view) take(m *message.Message) error {
	r, err := read(m)
	if err != nil {
		return fmt.Errorf("a message that is no event of this topic: %w", err)
	}
	v.store = cmp.Or(v.store, r.store)
	if r.store != "" && r.store != v.store {
		return fmt.Errorf("the topic has records of another store: %s, expected %s", r.store, v.store)
	}
	p := v.partitions[r.partition]
	if p == nil {
		p = &partition{incarnation: 1, held: map[int64]record{}}
		v.partitions[r.partition] = p
	}
	switch {
	case r.kind == "IncarnationBegan":
		if r.incarnation > p.incarnation {
			// What came after the shared position did not happen, as far as the shop is
			// concerned. A view with rows discards theirs here.
			p.incarnation, p.position = r.incarnation, min(p.position, r.position)
			clear(p.held)
			report("incarnation", r, map[string]any{"number": r.incarnation})
		}
	case r.incarnation < p.incarnation: // of a relay that was cut off
		report("earlier incarnation", r, nil)
	case r.position <= p.position:
		report("repeat", r, nil)
	case r.previous > p.position:
		// Something is missing, or comes later in the topic. Order matters here: wait for it.
		if len(p.held) == 0 {
			p.since, p.reported = time.Now(), false
		}
		p.held[r.previous] = r
	default:
		return v.apply(p, r)
	}
	return nil
}

// apply handles a record and what waited for it.
func (v *view) apply(p *partition, r record) error {
	for {
		if err := v.handle(r); err != nil {
			return err
		}
		p.position = r.position
		following := []int64{}
		for previous := range p.held {
			if previous <= p.position {
				following = append(following, previous)
			}
		}
		if len(following) == 0 {
			return nil
		}
		next := slices.Min(following)
		r = p.held[next]
		delete(p.held, next)
	}
}

// handle is where a consumer does what it is for.
func (v *view) handle(r record) error {
	if len(r.value) == 0 { // could not be encoded: its headers are all there is; nothing is deleted
		report("no value", r, nil)
		return nil
	}
	value, err := v.schemas.decode(r.value)
	if err != nil {
		return fmt.Errorf("decode %s at position %d: %w", r.kind, r.position, err)
	}
	report("event", r, map[string]any{"value": value})
	return nil
}

// checkGaps reports what is missing for too long: an operator has to look, and nothing is skipped.
func (v *view) checkGaps() {
	for n, p := range v.partitions {
		if len(p.held) == 0 || p.reported || time.Since(p.since) < v.gapTimeout {
			continue
		}
		p.reported = true
		first := int64(0)
		for previous := range p.held {
			if first == 0 || previous < first {
				first = previous
			}
		}
		write(map[string]any{"kind": "gap", "partition": n, "after": p.position, "upTo": first})
	}
}

func report(kind string, r record, more map[string]any) {
	line := map[string]any{"kind": kind, "partition": r.partition, "position": r.position, "type": r.kind, "product": r.key}
	for name, value := range more {
		line[name] = value
	}
	write(line)
}

func write(line map[string]any) {
	text, err := json.Marshal(line)
	if err != nil {
		text, _ = json.Marshal(map[string]any{"kind": "error", "error": errors.Unwrap(err)})
	}
	fmt.Println(string(text))
}
