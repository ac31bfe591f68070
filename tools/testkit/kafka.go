package testkit

import (
	"context"
	"errors"
	"testing"

	"github.com/dopaminestore/dopamine/tools/devservices"
)

// Kafka gives the brokers of the Apache Kafka that all tests share: use topics
// and groups of your own ([Topic]). Without it, it is a kfake of the test's own,
// and that is written down.
func Kafka(tb testing.TB) []string {
	tb.Helper()
	p, err := shared("kafka")
	if err != nil {
		missing(tb, "a real Kafka", err)
		return FakeKafka(tb)
	}
	return []string{p.URL}
}

// OwnKafka gives an Apache Kafka of one broker that the test may kill and
// restart; it takes some seconds and 350 MB. Without Java the test is skipped.
func OwnKafka(tb testing.TB) *devservices.Kafka { return OwnKafkaWith(tb) }

// OwnKafkaWith is OwnKafka with further lines of its server.properties, see
// [devservices.KafkaOptions].
func OwnKafkaWith(tb testing.TB, properties ...string) *devservices.Kafka {
	tb.Helper()
	k, err := devservices.StartKafka(context.Background(), devservices.KafkaOptions{Dir: tb.TempDir(), Properties: properties})
	if errors.Is(err, devservices.ErrNotHere) {
		skipFor(tb, "a Kafka of its own", err)
	}
	return stopped(tb, k, err)
}

// FakeKafka gives a kfake in process, of the test's own, in memory.
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

// Topic gives a name, for a topic or a group, that nobody else uses. The topic
// is the test's to create: the brokers create none by themselves.
func Topic(testing.TB) string { return "test-" + unique() }
