package audit

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
)

func TestMetadata_HasTheFieldsWithoutAColumn(t *testing.T) {
	at := time.Date(2026, 11, 1, 10, 0, 0, 5e6, time.FixedZone("KST", 9*3600))
	user := uuid.MustParse("00000000-0000-4000-8000-000000000001")
	payment := uuid.MustParse("00000000-0000-4000-8000-000000000002")
	slot := uuid.MustParse("00000000-0000-4000-8000-000000000003")
	price, err := domain.NewMoney(decimal.RequireFromString("12.5"), "USD")
	require.NoError(t, err)
	const ourID = `"paymentId": "00000000-0000-4000-8000-000000000002"`
	for want, event := range map[string]domain.Event{
		`{"arrivalSequence": 9, "unit": 7, "expirationTimestamp": "2026-11-01T01:00:01.005Z"}`: domain.SlotAcquired{UserID: user, Unit: 7, ArrivalSequence: 9,
			TTLMillis: 1000, WarningMillis: 3, KeyHash: []byte("secret")},
		`{"arrivalSequence": 9, "unit": 7, "expirationTimestamp": "2026-11-01T01:00:00.005Z", "regrantOf": "00000000-0000-4000-8000-000000000003"}`: domain.SlotAcquired{
			UserID: user, Unit: 7, ArrivalSequence: 9, RegrantOf: &slot},
		`{"expirationTimestamp": "2026-11-01T01:00:00.005Z"}`: domain.SlotExpiringSoon{UserID: user, Deadline: at},
		`{"arrivalSequence": 9, "unit": 7, "expirationTimestamp": "2026-11-01T01:00:00.005Z", "reclaimStatus": "AUTO_EXPIRED"}`: domain.SlotExpired{
			UserID: user, Unit: 7, ArrivalSequence: 9, Deadline: at, ReclaimStatus: domain.AutoExpired},
		`{` + ourID + `, "amount": "12.50", "currency": "USD", "paymentMethod": "CARD"}`: domain.PaymentInitiated{
			UserID: user, PaymentID: payment, Price: price, Method: domain.Card},
		`{` + ourID + `, "failureReason": "한 \"quoted\" \\ <b>\n"}`: domain.PaymentFailed{UserID: user, PaymentID: payment, Reason: "한 \"quoted\" \\ <b>\n"},
		`{` + ourID + `, "gatewayPaymentId": "gw", "amount": "12.50", "currency": "USD", "paymentMethod": "WALLET"}`: domain.PaymentCompleted{
			UserID: user, PaymentID: payment, GatewayPaymentID: "gw", Price: price, Method: domain.Wallet},
		`{` + ourID + `, "gatewayPaymentId": "gw", "newSlotId": "00000000-0000-4000-8000-000000000003"}`: domain.PaymentRegranted{
			UserID: user, PaymentID: payment, GatewayPaymentID: "gw", NewSlotID: slot},
		`{` + ourID + `, "refundId": "00000000-0000-4000-8000-000000000003", "amount": "12.50", "currency": "USD", "cause": "LATE", "reason": "SOLD_OUT", "returnUnit": false}`: domain.RefundDue{UserID: user, PaymentID: payment, Amount: price, Reason: "SOLD_OUT", RefundID: slot, Cause: domain.RefundLate},
		`{` + ourID + `, "refundId": "00000000-0000-4000-8000-000000000003", "gatewayRefundId": "re", "amount": "12.50", "currency": "USD"}`: domain.RefundCompleted{
			UserID: user, PaymentID: payment, RefundID: slot, GatewayRefundID: "re", Amount: price},
		`{` + ourID + `, "refundId": "00000000-0000-4000-8000-000000000003", "amount": "12.50", "currency": "USD", "failureReason": "CLOSED"}`: domain.RefundFailed{
			UserID: user, PaymentID: payment, RefundID: slot, Amount: price, Reason: "CLOSED"},
		`{` + ourID + `, "disputeId": "d", "won": true}`: domain.PaymentDisputeClosed{UserID: user, PaymentID: payment, DisputeID: "d", Won: true},
		`{` + ourID + `, "code": "OTHER_AMOUNT", "gatewayPaymentId": "gw", "amount": "12.50", "currency": "USD"}`: domain.PaymentContradicted{
			UserID: user, PaymentID: payment, Code: domain.OtherAmountTaken, GatewayPaymentID: "gw", Amount: &price},
		`{` + ourID + `, "code": "AMOUNT_UNREADABLE", "gatewayPaymentId": "gw", "reported": "1e900 KRW"}`: domain.PaymentContradicted{
			UserID: user, PaymentID: payment, Code: domain.UnreadableAmount, GatewayPaymentID: "gw", Reported: "1e900 KRW"},
		`{` + ourID + `, "cause": "REVERSED", "action": "ACCEPT", "note": "SEEN"}`: domain.PaymentResolved{
			UserID: user, PaymentID: payment, Cause: domain.CauseReversed, Action: domain.AcceptItem, Note: "SEEN"},
		`{` + ourID + `, "arrivalSequence": 9, "unit": 7}`: domain.SlotReturned{UserID: user, PaymentID: payment, Unit: 7, ArrivalSequence: 9},
	} {
		got, err := metadata(domain.Envelope{RecordedAt: at, Event: event})
		require.NoError(t, err)
		require.JSONEq(t, want, string(got), "%T", event)
	}
}
