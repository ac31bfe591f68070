package avsc

import (
	"encoding/json"
	"math"
	"time"

	"github.com/dopaminestore/dopamine/domain"
)

// eventForm contains the codec of one event type.
type eventForm struct {
	slot     bool // of a slot's stream; otherwise of a product's
	write    func(f *fields, e domain.Envelope)
	read     func(f *fields) domain.Event
	fromJSON func(payload []byte) (domain.Event, error)
}

// form returns the eventForm of the event type E. It does not include the fields that all
// records have, or all records of a slot.
func form[E domain.Event](slot bool, write func(*fields, E, domain.Envelope), read func(*fields) E) eventForm {
	return eventForm{
		slot:  slot,
		write: func(f *fields, e domain.Envelope) { write(f, e.Event.(E), e) },
		read:  func(f *fields) domain.Event { return read(f) },
		fromJSON: func(payload []byte) (domain.Event, error) {
			var e E
			err := json.Unmarshal(payload, &e)
			return e, err
		},
	}
}

// fromPayload decodes a payload of the newest schema version.
func (form eventForm) fromPayload(eventType string, payload []byte) (domain.Event, error) {
	if read := flats[eventType]; read != nil {
		if e, ok := readFlat(payload, read); ok {
			return e, nil
		}
	}
	return form.fromJSON(payload)
}

// bare returns the eventForm of an event without fields.
func bare[E domain.Event]() eventForm {
	return form(false, func(*fields, E, domain.Envelope) {}, func(*fields) (e E) { return e })
}

// forms are the event types that this program knows.
var forms = map[string]eventForm{
	"ProductCreated": form(false,
		func(f *fields, e domain.ProductCreated, _ domain.Envelope) {
			f.setText("name", e.Name)
			f.setText("description", e.Description)
			f.setMoney("price", "currency", e.Price)
			f.setInt("stock", e.Stock)
			f.setTime("saleDate", e.SaleDate)
			f.setOptionalTime("saleEndDate", e.SaleEndDate)
		},
		func(f *fields) domain.ProductCreated {
			return domain.ProductCreated{
				Name:        f.text("name"),
				Description: f.text("description"),
				Price:       f.money("price", "currency"),
				Stock:       f.int("stock"),
				SaleDate:    f.time("saleDate"),
				SaleEndDate: f.optionalTime("saleEndDate"),
			}
		}),
	"ProductDetailsChanged": form(false,
		func(f *fields, e domain.ProductDetailsChanged, _ domain.Envelope) {
			f.setText("name", e.Name)
			f.setText("description", e.Description)
		},
		func(f *fields) domain.ProductDetailsChanged {
			return domain.ProductDetailsChanged{Name: f.text("name"), Description: f.text("description")}
		}),
	"ProductPriceChanged": form(false,
		func(f *fields, e domain.ProductPriceChanged, _ domain.Envelope) {
			f.setMoney("price", "currency", e.Price)
		},
		func(f *fields) domain.ProductPriceChanged {
			return domain.ProductPriceChanged{Price: f.money("price", "currency")}
		}),
	"ProductStockDecreased": form(false,
		func(f *fields, e domain.ProductStockDecreased, _ domain.Envelope) {
			f.setInt("decrease", e.Decrease)
			f.setInt("totalStock", e.TotalStock)
		},
		func(f *fields) domain.ProductStockDecreased {
			return domain.ProductStockDecreased{Decrease: f.int("decrease"), TotalStock: f.int("totalStock")}
		}),
	"ProductSaleCancelled": bare[domain.ProductSaleCancelled](),
	"ProductStockIncreased": form(false,
		func(f *fields, e domain.ProductStockIncreased, _ domain.Envelope) {
			f.setInt("increase", e.Increase)
			f.setInt("totalStock", e.TotalStock)
		},
		func(f *fields) domain.ProductStockIncreased {
			return domain.ProductStockIncreased{Increase: f.int("increase"), TotalStock: f.int("totalStock")}
		}),
	"ProductSaleRescheduled": form(false,
		func(f *fields, e domain.ProductSaleRescheduled, _ domain.Envelope) {
			f.setTime("saleDate", e.SaleDate)
			f.setOptionalTime("saleEndDate", e.SaleEndDate)
		},
		func(f *fields) domain.ProductSaleRescheduled {
			return domain.ProductSaleRescheduled{SaleDate: f.time("saleDate"), SaleEndDate: f.optionalTime("saleEndDate")}
		}),
	"ProductSalePaused":  bare[domain.ProductSalePaused](),
	"ProductSaleResumed": bare[domain.ProductSaleResumed](),
	"ProductDeleted":     bare[domain.ProductDeleted](),
	"GrantWithdrawn": form(false,
		func(f *fields, e domain.GrantWithdrawn, _ domain.Envelope) {
			f.setID("slotId", e.SlotID)
			f.setLong("arrivalSequence", e.ArrivalSequence)
			f.setInt("unit", e.Unit)
		},
		func(f *fields) domain.GrantWithdrawn {
			return domain.GrantWithdrawn{SlotID: f.id("slotId"), ArrivalSequence: f.long("arrivalSequence"), Unit: f.int("unit")}
		}),

	"SlotAcquired": form(true,
		func(f *fields, e domain.SlotAcquired, env domain.Envelope) {
			const longest = math.MaxInt64 / int64(time.Millisecond) // of a time.Duration, ms
			if e.TTLMillis < 0 || e.TTLMillis > longest {
				f.fail("expirationTimestamp", "a life of %d ms is out of range", e.TTLMillis)
			}
			f.setID("userId", e.UserID)
			f.setTime("acquisitionTimestamp", env.RecordedAt)
			f.setTime("expirationTimestamp", env.RecordedAt.Add(e.TTL()))
			f.setInt("unit", e.Unit)
			f.setLong("arrivalSequence", e.ArrivalSequence)
			f.setLong("warningMillis", e.WarningMillis)
			f.setBytes("keyHash", e.KeyHash)
			f.setOptionalID("regrantOf", e.RegrantOf)
		},
		func(f *fields) domain.SlotAcquired {
			return domain.SlotAcquired{
				UserID:          f.id("userId"),
				Unit:            f.int("unit"),
				ArrivalSequence: f.long("arrivalSequence"),
				TTLMillis:       f.time("expirationTimestamp").UnixMilli() - f.time("acquisitionTimestamp").UnixMilli(),
				WarningMillis:   f.long("warningMillis"),
				KeyHash:         f.bytes("keyHash"),
				RegrantOf:       f.optionalID("regrantOf"),
			}
		}),
	"SlotExpiringSoon": form(true,
		func(f *fields, e domain.SlotExpiringSoon, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setTime("expirationTimestamp", e.Deadline)
		},
		func(f *fields) domain.SlotExpiringSoon {
			return domain.SlotExpiringSoon{UserID: f.id("userId"), Deadline: f.time("expirationTimestamp")}
		}),
	"SlotExpired": form(true,
		func(f *fields, e domain.SlotExpired, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setTime("expirationTimestamp", e.Deadline)
			f.setText("reclaimStatus", string(e.ReclaimStatus))
			f.setInt("unit", e.Unit)
			f.setLong("arrivalSequence", e.ArrivalSequence)
		},
		func(f *fields) domain.SlotExpired {
			return domain.SlotExpired{
				UserID:          f.id("userId"),
				Unit:            f.int("unit"),
				ArrivalSequence: f.long("arrivalSequence"),
				Deadline:        f.time("expirationTimestamp"),
				ReclaimStatus:   domain.ReclaimStatus(f.text("reclaimStatus")),
			}
		}),

	"PaymentInitiated": form(true,
		func(f *fields, e domain.PaymentInitiated, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setMoney("amount", "currency", e.Price)
			f.setText("paymentMethod", string(e.Method))
		},
		func(f *fields) domain.PaymentInitiated {
			return domain.PaymentInitiated{
				UserID:    f.id("userId"),
				PaymentID: f.id("purchaseId"),
				Price:     f.money("amount", "currency"),
				Method:    domain.PaymentMethod(f.text("paymentMethod")),
			}
		}),
	"PaymentFailed": form(true,
		func(f *fields, e domain.PaymentFailed, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setText("paymentStatus", string(domain.FailedPayment))
			f.setText("failureReason", e.Reason)
			f.setText("gatewayPaymentId", e.GatewayPaymentID)
		},
		func(f *fields) domain.PaymentFailed {
			return domain.PaymentFailed{
				UserID:           f.id("userId"),
				PaymentID:        f.id("purchaseId"),
				GatewayPaymentID: f.text("gatewayPaymentId"),
				Reason:           f.text("failureReason"),
			}
		}),
	"PaymentCompleted": form(true,
		func(f *fields, e domain.PaymentCompleted, env domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setText("paymentStatus", string(domain.SuccessfulPayment))
			f.setMoney("amount", "currency", e.Price)
			f.setTime("confirmationTimestamp", env.RecordedAt)
			f.setText("gatewayPaymentId", e.GatewayPaymentID)
			f.setText("paymentMethod", string(e.Method))
		},
		func(f *fields) domain.PaymentCompleted {
			return domain.PaymentCompleted{
				UserID:           f.id("userId"),
				PaymentID:        f.id("purchaseId"),
				GatewayPaymentID: f.text("gatewayPaymentId"),
				Price:            f.money("amount", "currency"),
				Method:           domain.PaymentMethod(f.text("paymentMethod")),
			}
		}),
	"PaymentRegranted": form(true,
		func(f *fields, e domain.PaymentRegranted, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setID("newSlotId", e.NewSlotID)
			f.setText("gatewayPaymentId", e.GatewayPaymentID)
		},
		func(f *fields) domain.PaymentRegranted {
			return domain.PaymentRegranted{
				UserID:           f.id("userId"),
				PaymentID:        f.id("purchaseId"),
				GatewayPaymentID: f.text("gatewayPaymentId"),
				NewSlotID:        f.id("newSlotId"),
			}
		}),
	"PaymentCancelRequested": form(true,
		func(f *fields, e domain.PaymentCancelRequested, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
		},
		func(f *fields) domain.PaymentCancelRequested {
			return domain.PaymentCancelRequested{UserID: f.id("userId"), PaymentID: f.id("purchaseId")}
		}),
	"RefundDue": form(true,
		func(f *fields, e domain.RefundDue, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setMoney("amount", "currency", e.Amount)
			f.setText("reason", e.Reason)
			f.setText("gatewayPaymentId", e.GatewayPaymentID)
			f.setText("refundReference", e.RefundID.String())
			f.setText("cause", string(e.Cause))
			f.native["returnUnit"] = e.ReturnUnit
		},
		func(f *fields) domain.RefundDue {
			payment := f.id("purchaseId")
			e := domain.RefundDue{
				UserID:           f.id("userId"),
				PaymentID:        payment,
				GatewayPaymentID: f.text("gatewayPaymentId"),
				Amount:           f.money("amount", "currency"),
				Reason:           f.text("reason"),
				RefundID:         f.idOr("refundReference", payment),
				Cause:            domain.RefundCause(f.text("cause")),
				ReturnUnit:       value[bool](f, "returnUnit"),
			}
			if e.Cause == "" {
				e.Cause = causeOf(e.Reason)
			}
			return e
		}),
	"RefundPending": form(true,
		func(f *fields, e domain.RefundPending, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setID("refundReference", e.RefundID)
			f.setMoney("amount", "currency", e.Amount)
			f.setText("refundId", e.GatewayRefundID)
		},
		func(f *fields) domain.RefundPending {
			return domain.RefundPending{
				UserID:          f.id("userId"),
				PaymentID:       f.id("purchaseId"),
				RefundID:        f.id("refundReference"),
				GatewayRefundID: f.text("refundId"),
				Amount:          f.money("amount", "currency"),
			}
		}),
	"RefundCompleted": form(true,
		func(f *fields, e domain.RefundCompleted, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setMoney("amount", "currency", e.Amount)
			f.setText("refundId", e.GatewayRefundID)
			f.setText("refundReference", e.RefundID.String())
		},
		func(f *fields) domain.RefundCompleted {
			payment := f.id("purchaseId")
			return domain.RefundCompleted{
				UserID:          f.id("userId"),
				PaymentID:       payment,
				GatewayRefundID: f.text("refundId"),
				Amount:          f.money("amount", "currency"),
				RefundID:        f.idOr("refundReference", payment),
			}
		}),
	"RefundFailed": form(true,
		func(f *fields, e domain.RefundFailed, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setID("refundReference", e.RefundID)
			f.setMoney("amount", "currency", e.Amount)
			f.setText("failureReason", e.Reason)
			f.setText("refundId", e.GatewayRefundID)
		},
		func(f *fields) domain.RefundFailed {
			return domain.RefundFailed{
				UserID:          f.id("userId"),
				PaymentID:       f.id("purchaseId"),
				RefundID:        f.id("refundReference"),
				GatewayRefundID: f.text("refundId"),
				Amount:          f.money("amount", "currency"),
				Reason:          f.text("failureReason"),
			}
		}),
	"PaymentDisputed": form(true,
		func(f *fields, e domain.PaymentDisputed, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setText("disputeId", e.DisputeID)
			f.setText("gatewayPaymentId", e.GatewayPaymentID)
		},
		func(f *fields) domain.PaymentDisputed {
			return domain.PaymentDisputed{
				UserID:           f.id("userId"),
				PaymentID:        f.id("purchaseId"),
				GatewayPaymentID: f.text("gatewayPaymentId"),
				DisputeID:        f.text("disputeId"),
			}
		}),
	"PaymentDisputeClosed": form(true,
		func(f *fields, e domain.PaymentDisputeClosed, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setText("disputeId", e.DisputeID)
			f.native["won"] = e.Won
			f.setText("gatewayPaymentId", e.GatewayPaymentID)
		},
		func(f *fields) domain.PaymentDisputeClosed {
			return domain.PaymentDisputeClosed{
				UserID:           f.id("userId"),
				PaymentID:        f.id("purchaseId"),
				GatewayPaymentID: f.text("gatewayPaymentId"),
				DisputeID:        f.text("disputeId"),
				Won:              value[bool](f, "won"),
			}
		}),
	"PaymentReversed": form(true,
		func(f *fields, e domain.PaymentReversed, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setText("reason", e.Reason)
			f.setText("gatewayPaymentId", e.GatewayPaymentID)
		},
		func(f *fields) domain.PaymentReversed {
			return domain.PaymentReversed{
				UserID:           f.id("userId"),
				PaymentID:        f.id("purchaseId"),
				GatewayPaymentID: f.text("gatewayPaymentId"),
				Reason:           f.text("reason"),
			}
		}),
	"PaymentContradicted": form(true,
		func(f *fields, e domain.PaymentContradicted, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setText("code", string(e.Code))
			f.setOptionalMoney("amount", "currency", e.Amount)
			f.setText("gatewayPaymentId", e.GatewayPaymentID)
			f.setText("refundId", e.GatewayRefundID)
			f.setText("disputeId", e.DisputeID)
			f.setText("reported", e.Reported)
		},
		func(f *fields) domain.PaymentContradicted {
			return domain.PaymentContradicted{
				UserID:           f.id("userId"),
				PaymentID:        f.id("purchaseId"),
				Code:             domain.ContradictionCode(f.text("code")),
				GatewayPaymentID: f.text("gatewayPaymentId"),
				GatewayRefundID:  f.text("refundId"),
				DisputeID:        f.text("disputeId"),
				Amount:           f.optionalMoney("amount", "currency"),
				Reported:         f.text("reported"),
			}
		}),
	"PaymentResolved": form(true,
		func(f *fields, e domain.PaymentResolved, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setText("cause", string(e.Cause))
			f.setText("action", string(e.Action))
			f.setText("note", e.Note)
			f.setOptionalID("refundReference", e.RefundID)
			f.setText("code", string(e.Code))
			f.setText("disputeId", e.DisputeID)
		},
		func(f *fields) domain.PaymentResolved {
			return domain.PaymentResolved{
				UserID:    f.id("userId"),
				PaymentID: f.id("purchaseId"),
				Cause:     domain.AttentionCause(f.text("cause")),
				RefundID:  f.optionalID("refundReference"),
				Code:      domain.ContradictionCode(f.text("code")),
				DisputeID: f.text("disputeId"),
				Action:    domain.ResolveAction(f.text("action")),
				Note:      f.text("note"),
			}
		}),
	"SlotReturned": form(true,
		func(f *fields, e domain.SlotReturned, _ domain.Envelope) {
			f.setID("userId", e.UserID)
			f.setID("purchaseId", e.PaymentID)
			f.setInt("unit", e.Unit)
			f.setLong("arrivalSequence", e.ArrivalSequence)
		},
		func(f *fields) domain.SlotReturned {
			return domain.SlotReturned{
				UserID:          f.id("userId"),
				PaymentID:       f.id("purchaseId"),
				Unit:            f.int("unit"),
				ArrivalSequence: f.long("arrivalSequence"),
			}
		}),
}

// causeOf returns the cause of a refund that became due before refunds had causes.
func causeOf(reason string) domain.RefundCause {
	if reason == domain.ReasonAmountMismatch {
		return domain.RefundAmountMismatch
	}
	return domain.RefundLate
}
