package replay_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/products"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// upperCaseProducts is products with the next schema version: names in capitals.
type upperCaseProducts struct{ products.Projection }

func (upperCaseProducts) SchemaVersion() int { return 2 }

func (p upperCaseProducts) NewFold(generation int) projections.Fold {
	return shoutingFold{p.Projection.NewFold(generation)}
}

func (p upperCaseProducts) NewBulk(generation, most int) projections.Bulk {
	return shoutingBulk{p.Projection.NewBulk(generation, most)}
}

type shoutingFold struct{ projections.Fold }

func (f shoutingFold) Apply(e domain.Envelope) error { return f.Fold.Apply(shout(e)) }

type shoutingBulk struct{ projections.Bulk }

func (b shoutingBulk) Apply(e domain.Envelope) error { return b.Bulk.Apply(shout(e)) }

func shout(e domain.Envelope) domain.Envelope {
	switch c := e.Event.(type) {
	case domain.ProductCreated:
		c.Name = strings.ToUpper(c.Name)
		e.Event = c
	case domain.ProductDetailsChanged:
		c.Name = strings.ToUpper(c.Name)
		e.Event = c
	}
	return e
}

func (s *system) only(p projections.Projection) *projector.Runner {
	cfg := s.ProjectorConfig()
	cfg.Group, cfg.Projections = s.Topic+p.Name(), []projections.Projection{p}
	return projector.NewRunner(cfg)
}

func TestReplay_BuildsANewSchemaVersionWhileTheOldOneServes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Kafka(t))
	s.StartRelay()
	_, stop := s.StartProjector()
	s.open(1).endSlots()
	s.AwaitCaughtUp()
	require.NoError(t, stop())
	old := make(chan error, 1)
	testkit.Background(t, func(ctx context.Context) error {
		err := s.only(products.New()).Run(ctx)
		old <- err
		return err
	})
	// The new program does not write the generation that the old one still serves.
	var refused *projections.RefusedError
	require.ErrorAs(t, s.only(upperCaseProducts{}).Run(context.Background()), &refused)
	require.ErrorContains(t, refused, "replay products")

	cfg := s.config()
	cfg.Projections = []projections.Rebuildable{upperCaseProducts{}}
	require.NoError(t, replay.Run(context.Background(), cfg))
	require.Equal(t, 2, s.Generation("products"))
	require.Zero(t, s.Count("SELECT count(*) FROM products WHERE name <> upper(name)"))
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM products"))

	// The old program stops; the new one continues.
	h := s.open(2)
	require.ErrorAs(t, <-old, &refused)
	testkit.Background(t, s.only(upperCaseProducts{}).Run)
	testkit.EventuallyEqual(t, readTimeout*10, "the new program to continue", 1, func() int64 {
		return s.Count("SELECT count(*) FROM products WHERE id = $1 AND name = 'LAMP'", h.product)
	})
}
