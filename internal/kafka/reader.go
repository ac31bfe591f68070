package kafka

import (
	"context"
	"errors"
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

// idleInterval is after how long without a record a reader checks whether the rest of a partition
// consists of transaction markers.
const idleInterval = time.Second

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
	Begin   int64    // the offset from which on Records are complete
	Oldest  int64    // the first offset that the partition still has
	Newest  int64    // the offset of the next record; 0 if there never was one
}

// ReadTails reads the records at the last n offsets of each partition. The markers of transactions
// have offsets too, so that there may be fewer records, or none.
func ReadTails(ctx context.Context, cluster Cluster, topic string, n int64) (map[int32]Tail, error) {
	var mu sync.Mutex
	tails := map[int32]Tail{}
	begin := func(p int32, oldest, newest int64) int64 {
		mu.Lock()
		defer mu.Unlock()
		tails[p] = Tail{Begin: max(oldest, newest-n), Oldest: oldest, Newest: newest}
		return tails[p].Begin
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
		next := first
		idle, looking, found := time.NewTimer(idleInterval), false, make(chan bool, 1)
		defer idle.Stop()
		for {
			select {
			case m, ok := <-pc.Messages():
				if !ok { // its offset was deleted meanwhile
					broken = fmt.Errorf("read partition %d: Kafka has no more of it", p)
					return
				}
				lasts = nil
				if next = m.Offset + 1; !looking {
					idle.Reset(idleInterval)
				}
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
			case <-idle.C:
				looking = true
				go func(from int64) {
					defer guard.Log("look for transaction markers")
					only, err := onlyMarkers(client, topic, p, from, end)
					found <- err == nil && only // the consumer has, and reports, the same error
				}(next)
			case only := <-found:
				if only {
					return
				}
				looking = false
				idle.Reset(idleInterval)
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

// onlyMarkers reports whether the partition has nothing but the markers of transactions from an
// offset to end. sarama passes over them without a message, so that the record before end never
// arrives.
func onlyMarkers(client sarama.Client, topic string, p int32, from, end int64) (bool, error) {
	broker, err := client.Leader(topic, p)
	if err != nil {
		return false, err
	}
	const size = 1 << 20
	for from < end {
		request := &sarama.FetchRequest{Version: 10, MinBytes: 1, MaxBytes: size, MaxWaitTime: 100, SessionEpoch: -1}
		request.AddBlock(topic, p, from, size, -1)
		response, err := broker.Fetch(request)
		if err != nil {
			return false, err
		}
		block := response.GetBlock(topic, p)
		if block == nil {
			return false, sarama.ErrIncompleteResponse
		}
		if !errors.Is(block.Err, sarama.ErrNoError) {
			return false, block.Err
		}
		next := from
		for _, set := range block.RecordsSet {
			batch := set.RecordBatch
			if batch == nil || !batch.Control {
				return false, nil
			}
			next = max(next, batch.LastOffset()+1)
		}
		if next == from {
			return false, nil
		}
		from = next
	}
	return true, nil
}

func offsetOf(ctx context.Context, client sarama.Client, topic string, p int32, which int64) (int64, error) {
	return backoff.Retry(ctx, func() (int64, error) { return client.GetOffset(topic, p, which) }, backoff.WithMaxElapsedTime(readTimeout))
}
