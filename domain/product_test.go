package domain

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
)

func TestCreateProduct(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 500_000, time.UTC)
	later := func(d time.Duration) *time.Time { at := now.Add(d); return &at }
	good := func() CreateProduct {
		price, err := NewMoney(decimal.NewFromInt(10), "KRW")
		require.NoError(t, err)
		return CreateProduct{Name: "n", Description: "d", Price: price, Stock: 1, SaleDate: *later(time.Hour)}
	}
	cases := []struct {
		what   string
		change func(*CreateProduct)
		field  string // the invalid field; "" for none
	}{
		{"the least that is allowed", func(*CreateProduct) {}, ""},
		{"200 characters of 4 bytes", func(c *CreateProduct) { c.Name = strings.Repeat("🎫", 200) }, ""},
		{"201 characters", func(c *CreateProduct) { c.Name = strings.Repeat("a", 201) }, "name"},
		{"no name", func(c *CreateProduct) { c.Name = "" }, "name"},
		{"NUL in the name", func(c *CreateProduct) { c.Name = "a\x00b" }, "name"},
		{"broken UTF-8", func(c *CreateProduct) { c.Description = "\xff" }, "description"},
		{"2000 characters", func(c *CreateProduct) { c.Description = strings.Repeat("語", 2000) }, ""},
		{"2001 characters", func(c *CreateProduct) { c.Description = strings.Repeat("a", 2001) }, "description"},
		{"no description", func(c *CreateProduct) { c.Description = "" }, "description"},
		{"no stock", func(c *CreateProduct) { c.Stock = 0 }, "stock"},
		{"most stock", func(c *CreateProduct) { c.Stock = 10_000_000 }, ""},
		{"too much stock", func(c *CreateProduct) { c.Stock = 10_000_001 }, "stock"},
		{"sale now", func(c *CreateProduct) { c.SaleDate = now }, "saleDate"},
		{"sale in the next millisecond", func(c *CreateProduct) { c.SaleDate = *later(time.Millisecond) }, ""},
		{"sale in the year 10000", func(c *CreateProduct) { c.SaleDate = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "saleDate"},
		{"end after begin", func(c *CreateProduct) { c.SaleEndDate = later(2 * time.Hour) }, ""},
		{"end at begin", func(c *CreateProduct) { c.SaleEndDate = later(time.Hour) }, "saleEndDate"},
		{"end before begin", func(c *CreateProduct) { c.SaleEndDate = later(time.Minute) }, "saleEndDate"},
	}
	for _, c := range cases {
		t.Run(c.what, func(t *testing.T) {
			cmd := good()
			c.change(&cmd)
			event, err := cmd.Decide(now)
			if c.field == "" {
				require.NoError(t, err)
				require.Equal(t, cmd.Name, event.Name)
				require.Equal(t, event.SaleDate, event.SaleDate.UTC().Truncate(time.Millisecond))
				return
			}
			var inv *InvalidError
			require.ErrorAs(t, err, &inv)
			require.Len(t, inv.Fields, 1)
			require.Equal(t, c.field, inv.Fields[0].Field)
		})
	}
}

func TestEvolveProduct_GrantWithdrawnKeepsUpdatedAt(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	r := record{stream: uuid.New()}
	p := r.fold(Product{}, at, ProductCreated{Stock: 3})
	p = r.fold(p, at.Add(time.Hour), GrantWithdrawn{ArrivalSequence: 1, Unit: 1})
	require.Equal(t, at, p.UpdatedAt)
	require.Equal(t, 2, p.Version)
	require.Equal(t, int64(1002), p.Position)
}

func TestEvolveProduct_IgnoresOtherStreams(t *testing.T) {
	r := record{stream: uuid.New()}
	p := r.fold(Product{}, time.Now(), SlotAcquired{Unit: 1})
	require.False(t, p.Exists(), "a slot's id was accepted as a product's")
}

func TestStatusOf(t *testing.T) {
	begin := time.Date(2030, 1, 1, 10, 0, 0, 0, time.UTC)
	end := begin.Add(time.Hour)
	cases := []struct {
		what   string
		now    time.Time
		end    *time.Time
		paused bool
		free   int
		want   ProductStatus
	}{
		{"ended before all else", end, &end, true, 5, ProductEnded},
		{"paused before upcoming", begin.Add(-time.Second), &end, true, 0, ProductPaused},
		{"upcoming before sold out", begin.Add(-time.Millisecond), nil, false, 0, ProductUpcoming},
		{"on sale from the sale date on", begin, &end, false, 1, ProductOnSale},
		{"sold out", begin, nil, false, 0, ProductSoldOut},
		{"on sale until the end", end.Add(-time.Millisecond), &end, false, 1, ProductOnSale},
	}
	for _, c := range cases {
		require.Equal(t, c.want, StatusOf(c.now, begin, c.end, c.paused, false, c.free), c.what)
	}
	require.Equal(t, ProductCancelled, StatusOf(end, begin, &end, true, true, 0))
}

func TestParseDecimal(t *testing.T) {
	for text, want := range map[string]string{
		"259000": "259000", "12.50": "12.5", "0": "0", "-0": "0", "1e3": "1000", "1.5E+1": "15", "-3": "-3", "125e-1": "12.5",
		"0." + strings.Repeat("0", 1000): "0",
	} {
		d, err := ParseDecimal(text)
		require.NoError(t, err, text)
		require.Equal(t, want, d.String(), text)
	}
	for _, text := range []string{
		"", " 1", "1 ", "+1", ".5", "5.", "01", "0x10", "1_000", "1,5", "NaN", "Inf", "１", "1e", "--1",
		"1e1001", "1e-1001", "1e999999999", "1e-999999999", "1e99999999999999999999", strings.Repeat("9", 1025),
	} {
		_, err := ParseDecimal(text)
		require.Error(t, err, text)
	}
}
