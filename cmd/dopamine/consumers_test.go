package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

const examples = "../../examples"

// exampleTimeout bounds an example's run.
const exampleTimeout = 90 * time.Second

// exampleRecords is a topic that the relay wrote, first without and then with a schema
// registry, followed by what a consumer meets on a bad day, written by the test.
type exampleRecords struct {
	t       *testing.T
	client  *kgo.Client
	topic   string
	written []*kgo.Record // by the relay
}

// await returns once the relay has written n records.
func (e *exampleRecords) await(brokers []string, n int) {
	e.t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(e.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(e.t, err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(e.t.Context(), time.Minute)
	defer cancel()
	e.written = make([]*kgo.Record, n)
	for seen := 0; seen < n; {
		fetched := c.PollFetches(ctx)
		require.NoError(e.t, ctx.Err(), "%d of %d records", seen, n)
		fetched.EachRecord(func(r *kgo.Record) {
			at, err := strconv.Atoi(header(r, avsc.HeaderPosition))
			require.NoError(e.t, err)
			e.written[at-1] = r
			seen++
		})
	}
}

// checkpointAt waits until the relay's checkpoint is at the position: a relay that ends before
// that is followed by one that repeats what it published.
func checkpointAt(t *testing.T, d dbtest.DB, position int) {
	t.Helper()
	testkit.Eventually(t, 30*time.Second, "the relay's checkpoint", func() error {
		var at int
		if err := d.Pool.QueryRow(t.Context(), "SELECT coalesce(max(position), 0) FROM relay_place").Scan(&at); err != nil {
			return err
		}
		if at < position {
			return fmt.Errorf("at %d, not %d", at, position)
		}
		return nil
	})
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// write writes a copy of the relay's record with other headers, to the same partition.
func (e *exampleRecords) write(from *kgo.Record, value []byte, changed map[string]string) {
	e.t.Helper()
	r := &kgo.Record{Topic: e.topic, Partition: from.Partition, Key: from.Key, Value: value}
	for _, h := range from.Headers {
		if v, ok := changed[h.Key]; ok {
			h.Value = []byte(v)
		}
		r.Headers = append(r.Headers, h)
	}
	require.NoError(e.t, e.client.ProduceSync(e.t.Context(), r).FirstErr())
}

// TestConsumerExamples runs the example consumers on what the relay wrote, in both framings,
// and on repeats, a record that is late, a tombstone, a new incarnation and a gap.
func TestConsumerExamples(t *testing.T) {
	unset(t)
	d, brokers, topic, registry := dbtest.Both(t), testkit.Kafka(t), testkit.Topic(t), srfake.New()
	t.Cleanup(registry.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	e := &exampleRecords{t: t, client: client, topic: topic}

	product := uuid.New()
	args := []string{"relay", "--database-url", d.URL, "--kafka-brokers", strings.Join(brokers, ","), "--kafka-topic", topic, "--kafka-partitions", "3"}
	appendTo(t, d, product, product, lamp(t), domain.ProductSalePaused{})
	relay := start(t, args...)
	e.await(brokers, 2)
	checkpointAt(t, d, 2)
	require.Equal(t, 0, relay.end(), relay.text())
	appendTo(t, d, product, product, domain.ProductSaleResumed{})
	relay = start(t, append(args, "--schema-registry-url", registry.URL())...)
	e.await(brokers, 3)
	checkpointAt(t, d, 3)
	require.Equal(t, 0, relay.end(), relay.text())
	require.Equal(t, []byte{0xC3, 0x01}, e.written[0].Value[:2], "single-object encoding")
	require.Equal(t, byte(0), e.written[2].Value[0], "Confluent wire format")

	last := e.written[2]
	store, _, _ := strings.Cut(header(last, kafka.HeaderStore), "/")
	next := func(position, previous, incarnation int) map[string]string {
		return map[string]string{kafka.HeaderEventID: uuid.NewString(), avsc.HeaderPosition: strconv.Itoa(position),
			kafka.HeaderPreviousPosition: strconv.Itoa(previous), kafka.HeaderStore: fmt.Sprintf("%s/%d", store, incarnation)}
	}
	e.write(last, last.Value, nil) // a repeat
	e.write(last, last.Value, next(5, 4, 1))
	e.write(last, last.Value, next(4, 3, 1)) // late
	e.write(last, nil, next(6, 5, 1))        // a tombstone
	began := next(4, 4, 2)
	began["event-type"] = kafka.TypeIncarnation
	e.write(last, nil, began)                  // the store went back to position 4
	e.write(last, last.Value, next(7, 6, 1))   // of a relay that was cut off
	e.write(last, last.Value, next(5, 4, 2))   // position 5 again, another event
	e.write(last, last.Value, next(20, 19, 2)) // 6 to 19 never come

	want := []string{"event 1", "event 2", "event 3", "repeat 3", "event 4", "event 5", "no value 6", "incarnation 4", "earlier incarnation 7", "event 5", "gap 5 to 19"}
	schemas, err := filepath.Abs("../../avsc/published")
	require.NoError(t, err)
	flags := []string{"--brokers", strings.Join(brokers, ","), "--topic", topic, "--schemas", schemas, "--registry", registry.URL()}

	t.Run("Go, through Watermill", func(t *testing.T) {
		program := filepath.Join(t.TempDir(), "consumer")
		out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, examples+"/consumer-go").CombinedOutput()
		require.NoError(t, err, "%s", out)
		lines := consume(t, program, append(flags, "--gap-timeout", "1s", "--idle", "4s")...)
		require.Equal(t, want, findings(lines))
		require.Equal(t, "Lamp", lines[0].Value["name"])
	})
	t.Run("Python", func(t *testing.T) {
		python := testkit.Python(t, examples+"/consumer-python/requirements.txt")
		database := filepath.Join(t.TempDir(), "events.db")
		flags := append([]string{examples + "/consumer-python/consumer.py", "--gap-timeout", "1", "--idle", "4", "--database", database}, flags...)
		lines := consume(t, python, append(flags, "--group", testkit.Topic(t))...)
		require.Equal(t, want, findings(lines))
		require.Equal(t, "259000.0000", lines[0].Value["price"], "a decimal, not a double")

		// Another group reads the topic from its start: the checkpoint keeps every event from
		// taking effect twice.
		for _, l := range consume(t, python, append(flags, "--group", testkit.Topic(t))...) {
			require.NotEqual(t, "event", l.Kind)
		}
		out, err := exec.CommandContext(t.Context(), python, "-c",
			"import sqlite3,sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT group_concat(position) FROM (SELECT position FROM events ORDER BY position)').fetchone()[0])", database).Output()
		require.NoError(t, err)
		require.Equal(t, "1,2,3,4,5", strings.TrimSpace(string(out)), "what the restore undid is gone, and position 5 is the new one")
	})
}

// finding is a line of an example's output.
type finding struct {
	Kind              string
	Position          int
	After, UpTo       int
	Value             map[string]any
	Partition, Number int
}

func consume(t *testing.T, program string, args ...string) []finding {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), exampleTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	require.NoError(t, err, "%s%s", out, errs.String())
	var lines []finding
	for line := range bytes.Lines(out) {
		var l finding
		require.NoError(t, json.Unmarshal(line, &l), "%s", line)
		lines = append(lines, l)
	}
	return lines
}

func findings(lines []finding) []string {
	var out []string
	for _, l := range lines {
		if l.Kind == "gap" {
			out = append(out, fmt.Sprintf("gap %d to %d", l.After, l.UpTo))
		} else {
			out = append(out, fmt.Sprintf("%s %d", l.Kind, l.Position))
		}
	}
	return out
}
