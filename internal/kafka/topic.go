package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/IBM/sarama"

	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

// ErrNoTopic means that the topic does not exist (yet).
var ErrNoTopic = errors.New("the topic does not exist")

// TopicSettings are the settings for creating a missing topic.
type TopicSettings struct {
	Partitions int32         // default DefaultPartitions
	Retention  time.Duration // default 0: forever
}

// TopicInfo describes an existing topic.
type TopicInfo struct {
	ClusterID  string
	TopicID    string // another one is another topic, whatever its name
	Partitions int32
	Retention  time.Duration // 0: forever
}

// Mismatch returns why a topic must not be used with these settings, and what to
// do; "" if it may be used. A partition count of 0 is any.
func (s TopicSettings) Mismatch(topic string, info TopicInfo) string {
	want := s.Partitions
	if want == 0 || info.Partitions == want {
		return ""
	}
	return fmt.Sprintf("topic %s has %d partitions, --kafka-partitions is %d: set --kafka-partitions to %d if the topic is meant, otherwise %s",
		topic, info.Partitions, want, info.Partitions, RecreateTopic(want))
}

// RecreateTopic returns the remedy for a topic whose partition count must not be used. partitions is
// the count that products keep their partition with.
func RecreateTopic(partitions int32) string {
	return fmt.Sprintf("recreate the topic with %d partitions (delete it: the relay creates it with --kafka-partitions and publishes everything again), "+
		"or with another number and run `dopamine replay all`", partitions)
}

// ShortRetention returns a warning if the topic's retention is shorter than these settings require,
// "" otherwise.
func (s TopicSettings) ShortRetention(topic string, info TopicInfo) string {
	if info.Retention == 0 || s.Retention != 0 && info.Retention >= s.Retention {
		return ""
	}
	want := "forever"
	if s.Retention != 0 {
		want = s.Retention.String()
	}
	return fmt.Sprintf("topic %s keeps records for %s, --kafka-retention is %s: set retention.ms of the topic, or --kafka-retention", topic, info.Retention, want)
}

// EnsureTopic creates the topic if it is missing and returns its description. An existing topic is
// not changed.
func EnsureTopic(ctx context.Context, cluster Cluster, topic string, s TopicSettings) (TopicInfo, error) {
	if s.Partitions == 0 {
		s.Partitions = DefaultPartitions
	}
	return withAdmin(ctx, cluster, func(client sarama.Client, admin sarama.ClusterAdmin) (TopicInfo, error) {
		info, err := describe(client, admin, topic)
		if !errors.Is(err, ErrNoTopic) {
			return info, err
		}
		retention, bytes, policy := "-1", "-1", "delete"
		if s.Retention > 0 {
			retention = strconv.FormatInt(s.Retention.Milliseconds(), 10)
		}
		err = admin.CreateTopic(topic, &sarama.TopicDetail{
			NumPartitions:     s.Partitions,
			ReplicationFactor: -1, // the cluster's own default
			ConfigEntries:     map[string]*string{"retention.ms": &retention, "retention.bytes": &bytes, "cleanup.policy": &policy},
		}, false)
		if err != nil && !errors.Is(err, sarama.ErrTopicAlreadyExists) {
			return TopicInfo{}, fmt.Errorf("create topic %s with %d partitions: %w", topic, s.Partitions, err)
		}
		// A new topic is not known to every broker immediately.
		for {
			info, err = describe(client, admin, topic)
			if err == nil || !errors.Is(err, ErrNoTopic) || ctx.Err() != nil {
				return info, err
			}
			_ = sleep.For(ctx, 50*time.Millisecond)
		}
	})
}

// DescribeTopic returns the topic's description, ErrNoTopic if there is none.
func DescribeTopic(ctx context.Context, cluster Cluster, topic string) (TopicInfo, error) {
	return withAdmin(ctx, cluster, func(client sarama.Client, admin sarama.ClusterAdmin) (TopicInfo, error) {
		return describe(client, admin, topic)
	})
}

// withAdmin runs f and returns when ctx ends, since sarama does not support contexts: a later
// result of f is dropped.
func withAdmin(ctx context.Context, cluster Cluster, f func(sarama.Client, sarama.ClusterAdmin) (TopicInfo, error)) (TopicInfo, error) {
	type answer struct {
		info TopicInfo
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		defer guard.Log("describe a topic")
		c := baseConfig(cluster)
		client, err := sarama.NewClient(cluster.Brokers, c)
		if err != nil {
			got <- answer{err: fmt.Errorf("connect to Kafka at %v: %w", cluster.Brokers, err)}
			return
		}
		admin, err := sarama.NewClusterAdminFromClient(client)
		if err != nil {
			_ = client.Close()
			got <- answer{err: fmt.Errorf("connect to Kafka at %v: %w", cluster.Brokers, err)}
			return
		}
		info, err := f(client, admin)
		_ = admin.Close() // closes the client too
		got <- answer{info, err}
	}()
	select {
	case <-ctx.Done():
		return TopicInfo{}, fmt.Errorf("query Kafka at %v: %w", cluster.Brokers, ctx.Err())
	case a := <-got:
		return a.info, a.err
	}
}

func describe(client sarama.Client, admin sarama.ClusterAdmin, topic string) (TopicInfo, error) {
	broker, err := client.Controller()
	if err != nil {
		return TopicInfo{}, fmt.Errorf("find Kafka's controller: %w", err)
	}
	req := sarama.NewMetadataRequest(client.Config().Version, []string{topic})
	req.AllowAutoTopicCreation = false
	meta, err := broker.GetMetadata(req)
	if err != nil {
		return TopicInfo{}, fmt.Errorf("describe topic %s: %w", topic, err)
	}
	if len(meta.Topics) != 1 || errors.Is(meta.Topics[0].Err, sarama.ErrUnknownTopicOrPartition) {
		return TopicInfo{}, fmt.Errorf("%s: %w", topic, ErrNoTopic)
	}
	t := meta.Topics[0]
	if t.Err != sarama.ErrNoError && t.Err != sarama.ErrLeaderNotAvailable {
		return TopicInfo{}, fmt.Errorf("describe topic %s: %w", topic, t.Err)
	}
	info := TopicInfo{TopicID: t.Uuid.String(), Partitions: int32(len(t.Partitions))}
	if meta.ClusterID != nil {
		info.ClusterID = *meta.ClusterID
	}
	results, err := admin.DescribeConfigs([]*sarama.ConfigResource{{Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"retention.ms"}}}, sarama.DescribeConfigsOptions{})
	if err != nil {
		return TopicInfo{}, fmt.Errorf("read the settings of topic %s: %w", topic, err)
	}
	for _, r := range results {
		if r.ErrorCode != sarama.ErrNoError {
			return TopicInfo{}, fmt.Errorf("read the settings of topic %s: %w", topic, r.ErrorCode)
		}
		for _, e := range r.Configs {
			if ms, err := strconv.ParseInt(e.Value, 10, 64); e.Name == "retention.ms" && err == nil && ms > 0 {
				info.Retention = time.Duration(ms) * time.Millisecond
			}
		}
	}
	return info, nil
}
