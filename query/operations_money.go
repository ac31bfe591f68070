package query

import (
	"context"
	"encoding/binary"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/attention"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/query/cursor"
	"github.com/dopaminestore/dopamine/query/readmodel"
)

// moneyItem is an item of a payment that needs an operator.
type moneyItem struct {
	PaymentID uuid.UUID             `json:"paymentId"`
	RefundID  *uuid.UUID            `json:"refundId"`
	Cause     domain.AttentionCause `json:"cause"`
	Code      *string               `json:"code"`
	Since     apimodel.Time         `json:"since"`
}

// moneyPage is the response of GET /v1/operations/money.
type moneyPage struct {
	Items      []moneyItem `json:"items"`
	NextCursor *string     `json:"nextCursor"`
}

// moneyFilter distinguishes the list's cursors from those of other lists.
const moneyFilter = "operations/money"

const moneyKeyLength = 8 + 16 + 4 + 16

func moneyKey(k attention.Key) []byte {
	b := append(binary.BigEndian.AppendUint64(nil, uint64(k.Since.UnixMicro())), k.Payment[:]...)
	return append(binary.BigEndian.AppendUint32(b, uint32(k.N)), k.Refund[:]...)
}

func moneyKeyFrom(b []byte) *attention.Key {
	return &attention.Key{
		Since: time.UnixMicro(int64(binary.BigEndian.Uint64(b))).UTC(), Payment: uuid.UUID(b[8:24]),
		N: int(int32(binary.BigEndian.Uint32(b[24:]))), Refund: uuid.UUID(b[28:]),
	}
}

// listMoney serves GET /v1/operations/money from the write side's database, because this list is
// not derived from events alone.
func (a *API) listMoney(c echo.Context) error {
	q := httpapi.QueryOf(c)
	limit := q.Int("limit", defaultLimit, 1, maxLimit)
	var after *attention.Key
	if key := cursor.Param(q, moneyFilter, moneyKeyLength); key != nil {
		after = moneyKeyFrom(key)
	}
	if err := q.Err(); err != nil {
		return err
	}
	if a.write == nil {
		return readmodel.ErrNoWrites
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readmodel.Timeout)
	defer cancel()
	items, err := attention.List(ctx, a.write, after, limit+1)
	if err != nil {
		return readmodel.DatabaseError("list money that waits for an operator", err)
	}
	answer := moneyPage{Items: make([]moneyItem, 0, len(items))}
	for i, item := range items {
		if i == limit {
			answer.NextCursor = cursor.Next(moneyFilter, moneyKey(items[limit-1].Key()))
			break
		}
		shown := moneyItem{PaymentID: item.PaymentID, RefundID: item.RefundID, Cause: item.Cause, Since: apimodel.Time(item.Since)}
		if item.Code != "" {
			shown.Code = &item.Code
		}
		answer.Items = append(answer.Items, shown)
	}
	return httpapi.JSON(c, http.StatusOK, answer)
}
