package projector_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/tools/pipelinetest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestMain(m *testing.M) { pipelinetest.Main(m) }

// system is an event store with its read models, and what only the projector's tests need.
type system struct{ *pipelinetest.Pipeline }

func newSystem(t testing.TB, brokers []string) *system {
	return &system{pipelinetest.New(t, brokers, 0)}
}

func (s *system) appendRaw(product, stream uuid.UUID, typ string, version int, payload []byte) int64 {
	return s.RecordRaw(product, stream, eventstore.NewEvent{ID: uuid.New(), Type: typ, SchemaVersion: version, Payload: payload, Meta: storetest.Meta})
}

func (s *system) names() []string {
	var names []string
	for _, p := range pipelinetest.Projections() {
		names = append(names, p.Name())
	}
	return names
}

// awaitReached waits until all projections have reached a position.
func (s *system) awaitReached(product uuid.UUID, position int64) {
	s.TB.Helper()
	testkit.Eventually(s.TB, 60*time.Second, fmt.Sprintf("position %d", position), func() error {
		ok, err := projector.Reached(context.Background(), s.Pool, s.names(), product, position)
		if err == nil && !ok {
			status, _ := projections.ReadStatus(context.Background(), s.Pool, projections.Head{})
			err = fmt.Errorf("not there yet: %+v", status)
		}
		return err
	})
}
