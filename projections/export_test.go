package projections

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/dopaminestore/dopamine/internal/kafka"
)

// ErrMoved is what a deposed owner gets.
var ErrMoved = errMoved

// Delivered is a message with its place in the topic.
type Delivered struct {
	Message   *message.Message
	Partition int32
	Offset    int64
}

// Owner is an owner of all partitions, without a consumer group.
type Owner struct {
	r   *Runner
	all []*owned
}

// Take reads the checkpoints of all partitions as an assignment does.
func (r *Runner) Take(ctx context.Context, partitions int32) (*Owner, error) {
	w := &Owner{r: r}
	var ps []int32
	for p := range partitions {
		ps = append(ps, p)
	}
	for _, p := range r.cfg.Projections {
		o, err := r.takeOver(ctx, p, kafka.TopicInfo{TopicID: "test", Partitions: partitions}, ps)
		if err != nil {
			return nil, err
		}
		w.all = append(w.all, o)
	}
	return w, nil
}

// Feed applies what was delivered.
func (w *Owner) Feed(ctx context.Context, batch []Delivered) error {
	records := map[int32][]*record{}
	for _, d := range batch {
		records[d.Partition] = append(records[d.Partition], newRecord(d.Message, d.Partition, d.Offset))
	}
	return w.r.applyRecords(ctx, w.all, records)
}

// CarryOutOrders carries out what was ordered.
func (w *Owner) CarryOutOrders(ctx context.Context) error {
	return w.r.carryOutOrders(ctx, w.all)
}

// Offset is where a projection goes on in a partition.
func (w *Owner) Offset(projection string, partition int32) int64 {
	for _, o := range w.all {
		if o.projection.Name() == projection {
			return o.places[partition].offset
		}
	}
	return -1
}
