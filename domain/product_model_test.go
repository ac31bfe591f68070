package domain

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// shelf is a second implementation of the rules of a product, over plain values:
// times are milliseconds, an end of 0 is none.
type shelf struct {
	there      bool
	name, text string
	units      int
	begin, end int64
	paused     bool
	changed    int64
}

func (s *shelf) refuses(c UpdateProduct, now int64) string {
	letters := func(p *string, most int) bool {
		return p != nil && (len([]rune(*p)) == 0 || len([]rune(*p)) > most)
	}
	begin, end := s.begin, s.end
	bad := c.Name == nil && c.Description == nil && c.StockIncrease == nil && c.SaleDate == nil && c.SaleEndDate == nil && c.Paused == nil
	bad = bad || letters(c.Name, 200) || letters(c.Description, 2000)
	bad = bad || c.StockIncrease != nil && (*c.StockIncrease < 1 || *c.StockIncrease > 10_000_000)
	if c.SaleDate != nil {
		begin = c.SaleDate.UnixMilli()
		bad = bad || begin <= now
	}
	if c.SaleEndDate != nil {
		end = 0
		if c.SaleEndDate.At != nil {
			end = c.SaleEndDate.At.UnixMilli()
			bad = bad || end <= now
		}
	}
	switch {
	case bad:
		return "invalid"
	case !s.there:
		return "gone"
	case end != 0 && end <= begin, c.StockIncrease != nil && s.units+*c.StockIncrease > 10_000_000:
		return "invalid"
	}
	return ""
}

func (s *shelf) apply(c UpdateProduct, now int64) {
	before := *s
	if c.Name != nil {
		s.name = *c.Name
	}
	if c.Description != nil {
		s.text = *c.Description
	}
	if c.StockIncrease != nil {
		s.units += *c.StockIncrease
	}
	if c.SaleDate != nil {
		s.begin = c.SaleDate.UnixMilli()
	}
	if c.SaleEndDate != nil {
		s.end = 0
		if c.SaleEndDate.At != nil {
			s.end = c.SaleEndDate.At.UnixMilli()
		}
	}
	if c.Paused != nil {
		s.paused = *c.Paused
	}
	if *s != before {
		s.changed = now
	}
}

// record assigns stream versions to events as the store does.
type record struct {
	stream  uuid.UUID
	version int
}

func (r *record) fold(p Product, at time.Time, events ...Event) Product {
	for _, e := range events {
		r.version++
		p = EvolveProduct(p, Envelope{
			StreamID: r.stream, StreamVersion: r.version, Position: int64(1000 + r.version),
			RecordedAt: at, Event: e,
		})
	}
	return p
}

func outcome(err error) string {
	var inv *InvalidError
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrNoProduct):
		return "gone"
	case errors.As(err, &inv):
		return "invalid"
	}
	return err.Error()
}

func maybe[T any](t *rapid.T, name string, g *rapid.Generator[T]) *T {
	if !rapid.Bool().Draw(t, name+" given") {
		return nil
	}
	v := g.Draw(t, name)
	return &v
}

var (
	someNames = rapid.SampledFrom([]string{"", "a", "b", "é", strings.Repeat("語", 200), strings.Repeat("語", 201)})
	someTexts = rapid.SampledFrom([]string{"", "x", "y", strings.Repeat("🎫", 2000), strings.Repeat("🎫", 2001)})
	someUnits = rapid.OneOf(rapid.IntRange(-1, 3), rapid.SampledFrom([]int{4_999_999, 9_999_999, 10_000_000, 10_000_001}))
)

// someTimes are near the current time, some with more precision than is stored.
func someTimes(now time.Time) *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		ms := rapid.Int64Range(-3, 5).Draw(t, "ms")
		return now.Add(time.Duration(ms)*time.Millisecond + time.Duration(rapid.SampledFrom([]int{0, 400}).Draw(t, "µs"))*time.Microsecond)
	})
}

func TestUpdate_MatchesModel(t *testing.T) {
	price, err := NewMoney(decimal.NewFromInt(10), "KRW")
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		r := record{stream: uuid.New()}
		created, err := CreateProduct{Name: "a", Description: "x", Price: price, Stock: 1, SaleDate: now.Add(time.Millisecond)}.Decide(now)
		require.NoError(t, err)
		p := r.fold(Product{}, now, created)
		model := shelf{there: true, name: "a", text: "x", units: 1, begin: now.UnixMilli() + 1, changed: now.UnixMilli()}

		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 4).Draw(t, "wait")) * time.Millisecond)
			if rapid.IntRange(0, 15).Draw(t, "delete") == 0 {
				events, err := p.Delete()
				require.Equal(t, model.there, err == nil)
				if model.there {
					p, model.there, model.changed = r.fold(p, now, events...), false, now.UnixMilli()
				}
			}
			c := UpdateProduct{
				Name: maybe(t, "name", someNames), Description: maybe(t, "description", someTexts),
				StockIncrease: maybe(t, "stockIncrease", someUnits), SaleDate: maybe(t, "saleDate", someTimes(now)),
				Paused: maybe(t, "paused", rapid.Bool()),
			}
			if rapid.Bool().Draw(t, "saleEndDate given") {
				c.SaleEndDate = &SaleEnd{At: maybe(t, "saleEndDate", someTimes(now))}
			}
			events, err := p.Update(c, now)
			require.Equal(t, model.refuses(c, now.UnixMilli()), outcome(err), "%+v", err)
			if err == nil {
				model.apply(c, now.UnixMilli())
				p = r.fold(p, now, events...)
			}
			requireSame(t, model, p)
		}
	})
}

func requireSame(t *rapid.T, m shelf, p Product) {
	end := int64(0)
	if p.SaleEndDate != nil {
		end = p.SaleEndDate.UnixMilli()
	}
	require.Equal(t, m, shelf{
		there: p.Exists(), name: p.Name, text: p.Description, units: p.TotalStock,
		begin: p.SaleDate.UnixMilli(), end: end, paused: p.Paused, changed: p.UpdatedAt.UnixMilli(),
	})
	require.Zero(t, p.SaleDate.Nanosecond()%int(time.Millisecond), "a time is more precise than the stored form")
}
