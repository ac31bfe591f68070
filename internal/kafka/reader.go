package kafka

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/cenkalti/backoff/v5"

	"github.com/dopaminestore/dopamine/internal/guard"
)

// readTimeout is how long a partition may have no leader: a broker restarts, or another one becomes
// the leader.
const readTimeout = 30 * time.Second

// Record is a record of the topic.
type Record struct {
	Partition int32
	Offset    int64
	Key       string
	Value     []byte
	headers   []*sarama.RecordHeader
}

// Header returns the text of a header, "" if there is none.
func (r Record) Header(name string) string {
	for _, h := range r.headers {
		if string(h.Key) == name {
			return string(h.Value)
		}
	}
	return ""
}

// ReadTopic reads each partition from its first record to the one that was its last at the time of
// the call. Each partition is read in a separate goroutine, without a group. An error of each ends
// the reading, and so does a persistent error of Kafka.
func ReadTopic(ctx context.Context, cluster Cluster, topic string, each func(ctx context.Context, partition int32, records func(func(Record) bool)) error) error {
	return readPartitions(ctx, cluster, topic, func(_ int32, oldest, _ int64) int64 { return oldest }, each)
}

// Tail is the end of one partition.
type Tail struct {
	Records []Record // the last ones, in order
	Oldest  int64    // the first offset that the partition still has
	Newest  int64    // the offset of the next record; 0 if there never was one
}

// ReadTails reads the last n records of each partition, fewer if it has fewer.
func ReadTails(ctx context.Context, cluster Cluster, topic string, n int64) (map[int32]Tail, error) {
	var mu sync.Mutex
	tails := map[int32]Tail{}
	begin := func(p int32, oldest, newest int64) int64 {
		mu.Lock()
		defer mu.Unlock()
		tails[p] = Tail{Oldest: oldest, Newest: newest}
		return max(oldest, newest-n)
	}
	err := readPartitions(ctx, cluster, topic, begin, func(_ context.Context, p int32, records func(func(Record) bool)) error {
		var last []Record
		records(func(r Record) bool { last = append(last, r); return true })
		mu.Lock()
		defer mu.Unlock()
		t := tails[p]
		t.Records = last
		tails[p] = t
		return nil
	})
	return tails, err
}

// readPartitions is like ReadTopic, starting at the offset that begin returns, given a partition's
// first offset and the one after its last.
func readPartitions(ctx context.Context, cluster Cluster, topic string, begin func(p int32, oldest, newest int64) int64,
	each func(ctx context.Context, partition int32, records func(func(Record) bool)) error) error {
	c := baseConfig(cluster)
	c.Consumer.Fetch.Default = 4 << 20
	c.Consumer.Return.Errors = true
	client, err := sarama.NewClient(cluster.Brokers, c)
	if err != nil {
		return fmt.Errorf("connect to Kafka at %v: %w", cluster.Brokers, err)
	}
	defer client.Close()
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return fmt.Errorf("read Kafka: %w", err)
	}
	defer consumer.Close()
	partitions, err := client.Partitions(topic)
	if err != nil {
		return fmt.Errorf("read the topic %s: %w", topic, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var reading sync.WaitGroup
	for _, p := range partitions {
		reading.Go(func() {
			defer guard.Log("read a partition")
			if err := readPartition(ctx, client, consumer, topic, p, begin, each); err != nil {
				cancel(err)
			}
		})
	}
	reading.Wait()
	return context.Cause(ctx)
}

func readPartition(ctx context.Context, client sarama.Client, consumer sarama.Consumer, topic string, p int32,
	begin func(p int32, oldest, newest int64) int64, each func(context.Context, int32, func(func(Record) bool)) error) error {
	first, err := offsetOf(ctx, client, topic, p, sarama.OffsetOldest)
	if err != nil {
		return fmt.Errorf("first offset of partition %d: %w", p, err)
	}
	end, err := offsetOf(ctx, client, topic, p, sarama.OffsetNewest)
	if err != nil {
		return fmt.Errorf("last offset of partition %d: %w", p, err)
	}
	if first = begin(p, first, end); first >= end {
		return each(ctx, p, func(func(Record) bool) {})
	}
	pc, err := consumer.ConsumePartition(topic, p, first)
	if err != nil {
		return fmt.Errorf("read partition %d: %w", p, err)
	}
	defer pc.Close()
	var broken, last error // last is the reason why nothing arrives, reported by sarama while it retries
	err = each(ctx, p, func(yield func(Record) bool) {
		var lasts <-chan time.Time
		for {
			select {
			case m, ok := <-pc.Messages():
				if !ok { // its offset was deleted meanwhile
					broken = fmt.Errorf("read partition %d: Kafka has no more of it", p)
					return
				}
				lasts = nil
				if m.Offset >= end || !yield(Record{p, m.Offset, string(m.Key), m.Value, m.Headers}) || m.Offset == end-1 {
					return
				}
			case e, ok := <-pc.Errors():
				if !ok { // then there are no messages either
					continue
				}
				if last = e; lasts == nil {
					lasts = time.After(readTimeout)
				}
			case <-lasts:
				broken = fmt.Errorf("read partition %d: %w", p, last)
				return
			case <-ctx.Done():
				broken = ctx.Err()
				return
			}
		}
	})
	if broken != nil {
		return broken
	}
	return err
}

func offsetOf(ctx context.Context, client sarama.Client, topic string, p int32, which int64) (int64, error) {
	return backoff.Retry(ctx, func() (int64, error) { return client.GetOffset(topic, p, which) }, backoff.WithMaxElapsedTime(readTimeout))
}
