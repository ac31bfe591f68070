package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// A topic that cannot be this installation's is a wrong setting: exit status 2 with a remedy, for
// every process that uses it.
func TestRelayAndProjector_RefuseAnotherTopicAtStartup(t *testing.T) {
	unset(t)
	brokers, topic := testkit.Kafka(t), testkit.Topic(t)
	d := dbtest.Both(t)
	_, err := kafka.EnsureTopic(t.Context(), kafka.Cluster{Brokers: brokers}, topic, kafka.TopicSettings{Partitions: 3})
	require.NoError(t, err)
	args := func(process, partitions string) []string {
		return []string{process, "--database-url", d.URL, "--kafka-brokers", brokers[0], "--kafka-topic", topic, "--kafka-partitions", partitions}
	}
	for _, process := range []string{"relay", "projector"} {
		exit, _, said := bounded(t, args(process, "12")...)
		require.Equal(t, 2, exit, said)
		require.Contains(t, said, "--kafka-partitions (DOPAMINE_KAFKA_PARTITIONS): topic "+topic+" has 3 partitions, --kafka-partitions is 12", process)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	other := uuid.NewString() + "/1"
	require.NoError(t, client.ProduceSync(context.Background(), &kgo.Record{Topic: topic, Key: []byte(uuid.NewString()), Value: []byte("x"),
		Headers: []kgo.RecordHeader{{Key: kafka.HeaderStore, Value: []byte(other)}}}).FirstErr())
	for _, process := range []string{"relay", "projector"} {
		exit, _, said := bounded(t, args(process, "3")...)
		require.Equal(t, 2, exit, said)
		for _, part := range []string{"--kafka-topic (DOPAMINE_KAFKA_TOPIC)", "another event store", other, "a separate topic"} {
			require.Contains(t, said, part, process)
		}
	}
	_, err = kadm.NewClient(client).DeleteTopic(context.Background(), topic)
	require.NoError(t, err)
}

// TestKafka_WrongCredentialsAreAWrongSetting ends processes whose password the brokers refuse
// with exit status 2, naming the settings and not the password.
func TestKafka_WrongCredentialsAreAWrongSetting(t *testing.T) {
	unset(t)
	port, err := devservices.FreePort()
	require.NoError(t, err)
	listener := fmt.Sprintf("SASL_PLAINTEXT://127.0.0.1:%d", port)
	testkit.OwnKafkaWith(t,
		"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},"+listener,
		"advertised.listeners=PLAINTEXT://127.0.0.1:{port},"+listener,
		"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT",
		"sasl.enabled.mechanisms=PLAIN",
		`listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_shop="shop-secret";`)
	d := dbtest.Both(t)
	for _, name := range []string{"relay", "projector"} {
		p := start(t, name, "--database-url", d.URL, "--kafka-brokers", fmt.Sprintf("127.0.0.1:%d", port),
			"--kafka-sasl", "PLAIN", "--kafka-user", "shop", "--kafka-password", "another-secret")
		select {
		case status := <-p.exited:
			close(p.exited)
			require.Equal(t, 2, status, "%s: %s", name, p.text())
		case <-time.After(30 * time.Second):
			require.Fail(t, "still runs", "%s: %s", name, p.text())
		}
		require.Contains(t, p.text(), "--kafka-user (DOPAMINE_KAFKA_USER), --kafka-password", name)
		require.NotContains(t, p.text(), "another-secret", name)
	}
}
