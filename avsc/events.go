package avsc

import (
	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
)

// forms are the event types that this program knows.
var forms = byType(
	ofProduct(func(f fields, e *domain.ProductCreated) {
		f.text("name", &e.Name)
		f.text("description", &e.Description)
		f.money("price", "currency", &e.Price)
		f.int("stock", &e.Stock)
		f.time("saleDate", &e.SaleDate)
		f.optionalTime("saleEndDate", &e.SaleEndDate)
	}),
	ofProduct(func(f fields, e *domain.ProductDetailsChanged) {
		f.text("name", &e.Name)
		f.text("description", &e.Description)
	}),
	ofProduct(func(f fields, e *domain.ProductPriceChanged) {
		f.money("price", "currency", &e.Price)
	}),
	ofProduct(func(f fields, e *domain.ProductStockDecreased) {
		f.int("decrease", &e.Decrease)
		f.int("totalStock", &e.TotalStock)
	}),
	ofProduct(func(fields, *domain.ProductSaleCancelled) {}),
	ofProduct(func(f fields, e *domain.ProductStockIncreased) {
		f.int("increase", &e.Increase)
		f.int("totalStock", &e.TotalStock)
	}),
	ofProduct(func(f fields, e *domain.ProductSaleRescheduled) {
		f.time("saleDate", &e.SaleDate)
		f.optionalTime("saleEndDate", &e.SaleEndDate)
	}),
	ofProduct(func(fields, *domain.ProductSalePaused) {}),
	ofProduct(func(fields, *domain.ProductSaleResumed) {}),
	ofProduct(func(fields, *domain.ProductDeleted) {}),
	ofProduct(func(f fields, e *domain.GrantWithdrawn) {
		f.long("arrivalSequence", &e.ArrivalSequence)
		f.int("unit", &e.Unit)
		f.id("slotId", &e.SlotID)
	}),

	ofSlot(func(f fields, e *domain.SlotAcquired) {
		f.id("userId", &e.UserID)
		f.int("unit", &e.Unit)
		f.long("arrivalSequence", &e.ArrivalSequence)
		f.life("acquisitionTimestamp", "expirationTimestamp", &e.TTLMillis)
		f.long("warningMillis", &e.WarningMillis)
		f.bytes("keyHash", &e.KeyHash)
		f.optionalID("regrantOf", &e.RegrantOf)
	}),
	ofSlot(func(f fields, e *domain.SlotExpiringSoon) {
		f.id("userId", &e.UserID)
		f.time("expirationTimestamp", &e.Deadline)
	}),
	ofSlot(func(f fields, e *domain.SlotExpired) {
		f.id("userId", &e.UserID)
		f.int("unit", &e.Unit)
		f.long("arrivalSequence", &e.ArrivalSequence)
		f.time("expirationTimestamp", &e.Deadline)
		f.text("reclaimStatus", (*string)(&e.ReclaimStatus))
	}),
	ofSlot(func(f fields, e *domain.SlotReturned) {
		payment(f, &e.UserID, &e.PaymentID)
		f.int("unit", &e.Unit)
		f.long("arrivalSequence", &e.ArrivalSequence)
	}),

	ofSlot(func(f fields, e *domain.PaymentInitiated) {
		payment(f, &e.UserID, &e.PaymentID)
		f.money("amount", "currency", &e.Price)
		f.text("paymentMethod", (*string)(&e.Method))
	}),
	ofSlot(func(f fields, e *domain.PaymentCancelRequested) {
		payment(f, &e.UserID, &e.PaymentID)
	}),
	ofSlot(func(f fields, e *domain.PaymentFailed) {
		payment(f, &e.UserID, &e.PaymentID)
		f.text("gatewayPaymentId", &e.GatewayPaymentID)
		f.text("failureReason", &e.Reason)
		f.constant("paymentStatus", string(domain.FailedPayment))
	}),
	ofSlot(func(f fields, e *domain.PaymentCompleted) {
		payment(f, &e.UserID, &e.PaymentID)
		f.text("gatewayPaymentId", &e.GatewayPaymentID)
		f.money("amount", "currency", &e.Price)
		f.text("paymentMethod", (*string)(&e.Method))
		f.constant("paymentStatus", string(domain.SuccessfulPayment))
		f.recorded("confirmationTimestamp")
	}),
	ofSlot(func(f fields, e *domain.PaymentRegranted) {
		payment(f, &e.UserID, &e.PaymentID)
		f.text("gatewayPaymentId", &e.GatewayPaymentID)
		f.id("newSlotId", &e.NewSlotID)
	}),
	ofSlot(func(f fields, e *domain.RefundDue) {
		payment(f, &e.UserID, &e.PaymentID)
		f.text("gatewayPaymentId", &e.GatewayPaymentID)
		f.money("amount", "currency", &e.Amount)
		f.text("reason", &e.Reason)
		f.id("refundReference", &e.RefundID)
		f.text("cause", (*string)(&e.Cause))
		f.bool("returnUnit", &e.ReturnUnit)
	}),
	ofSlot(func(f fields, e *domain.RefundPending) {
		payment(f, &e.UserID, &e.PaymentID)
		f.id("refundReference", &e.RefundID)
		f.text("refundId", &e.GatewayRefundID)
		f.money("amount", "currency", &e.Amount)
	}),
	ofSlot(func(f fields, e *domain.RefundCompleted) {
		payment(f, &e.UserID, &e.PaymentID)
		f.text("refundId", &e.GatewayRefundID)
		f.money("amount", "currency", &e.Amount)
		f.id("refundReference", &e.RefundID)
	}),
	ofSlot(func(f fields, e *domain.RefundFailed) {
		payment(f, &e.UserID, &e.PaymentID)
		f.id("refundReference", &e.RefundID)
		f.text("refundId", &e.GatewayRefundID)
		f.money("amount", "currency", &e.Amount)
		f.text("failureReason", &e.Reason)
	}),
	ofSlot(func(f fields, e *domain.PaymentDisputed) {
		payment(f, &e.UserID, &e.PaymentID)
		f.text("gatewayPaymentId", &e.GatewayPaymentID)
		f.text("disputeId", &e.DisputeID)
	}),
	ofSlot(func(f fields, e *domain.PaymentDisputeClosed) {
		payment(f, &e.UserID, &e.PaymentID)
		f.text("gatewayPaymentId", &e.GatewayPaymentID)
		f.text("disputeId", &e.DisputeID)
		f.bool("won", &e.Won)
	}),
	ofSlot(func(f fields, e *domain.PaymentReversed) {
		payment(f, &e.UserID, &e.PaymentID)
		f.text("gatewayPaymentId", &e.GatewayPaymentID)
		f.text("reason", &e.Reason)
	}),
	ofSlot(func(f fields, e *domain.PaymentContradicted) {
		payment(f, &e.UserID, &e.PaymentID)
		f.text("code", (*string)(&e.Code))
		f.text("gatewayPaymentId", &e.GatewayPaymentID)
		f.text("refundId", &e.GatewayRefundID)
		f.text("disputeId", &e.DisputeID)
		f.optionalMoney("amount", "currency", &e.Amount)
		f.text("reported", &e.Reported)
	}),
	ofSlot(func(f fields, e *domain.PaymentResolved) {
		payment(f, &e.UserID, &e.PaymentID)
		f.text("cause", (*string)(&e.Cause))
		f.optionalID("refundReference", &e.RefundID)
		f.text("code", (*string)(&e.Code))
		f.text("disputeId", &e.DisputeID)
		f.text("action", (*string)(&e.Action))
		f.text("note", &e.Note)
	}),
)

// payment visits the fields with which every event of a payment begins.
func payment(f fields, user, payment *uuid.UUID) {
	f.id("userId", user)
	f.id("purchaseId", payment)
}
