package testkit

import (
	"context"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dopaminestore/dopamine/tools/devservices"
)

// Kafka returns the brokers of the Apache Kafka that all tests share: use separate topics and
// groups ([Topic]). If it is not available, it returns a kfake for this test, and reports that.
func Kafka(tb testing.TB) []string {
	tb.Helper()
	p, err := shared("kafka")
	if err != nil {
		missing(tb, "a real Kafka", err)
		return FakeKafka(tb)
	}
	return []string{p.URL}
}

// OwnKafka returns a single-broker Apache Kafka that the test may kill and restart. It takes some
// seconds and 350 MB. Without Java the test is skipped.
func OwnKafka(tb testing.TB) *devservices.Kafka { return OwnKafkaWith(tb) }

// OwnKafkaWith is OwnKafka with further lines of its server.properties, see
// [devservices.KafkaOptions].
func OwnKafkaWith(tb testing.TB, properties ...string) *devservices.Kafka {
	tb.Helper()
	k, err := devservices.StartKafka(context.Background(), devservices.KafkaOptions{Dir: tb.TempDir(), Properties: properties})
	if errors.Is(err, devservices.ErrNotHere) {
		skipFor(tb, "a separate Kafka", err)
	}
	return stopped(tb, k, err)
}

// FakeKafka returns an in-memory kfake in process, for this test only.
func FakeKafka(tb testing.TB) []string {
	tb.Helper()
	k, err := devservices.StartFakeKafka(context.Background(), devservices.KafkaOptions{})
	return stopped(tb, k, err).Brokers()
}

func stopped(tb testing.TB, k *devservices.Kafka, err error) *devservices.Kafka {
	tb.Helper()
	if err != nil {
		tb.Fatalf("start a Kafka: %v", err)
	}
	tb.Cleanup(func() {
		if err := k.Stop(context.Background()); err != nil {
			tb.Errorf("stop the test's Kafka: %v", err)
		}
	})
	return k
}

// Topic returns a unique name for a topic or a group. The test creates the topic: brokers create
// none.
func Topic(testing.TB) string { return "test-" + unique() }

// CommitRecords writes records in one transaction, as another program may do that has access to the
// topic.
func CommitRecords(tb testing.TB, brokers []string, records ...*kgo.Record) {
	tb.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.TransactionalID(unique()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		tb.Fatalf("connect to Kafka: %v", err)
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		tb.Fatalf("begin a transaction: %v", err)
	}
	if err := client.ProduceSync(tb.Context(), records...).FirstErr(); err != nil {
		tb.Fatalf("write in a transaction: %v", err)
	}
	if err := client.EndTransaction(tb.Context(), kgo.TryCommit); err != nil {
		tb.Fatalf("commit a transaction: %v", err)
	}
}
