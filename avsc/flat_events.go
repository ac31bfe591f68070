package avsc

import "github.com/dopaminestore/dopamine/domain"

// flats parse the payloads of slots, of which a log has many. Payloads of products
// are few and contain free text. They are for the newest schema versions.
var flats = map[string]func(*flat) domain.Event{
	"SlotAcquired": func(f *flat) domain.Event {
		var e domain.SlotAcquired
		for more := f.open(); more; more = f.more() {
			switch string(f.key) {
			case "userId":
				e.UserID = f.id()
			case "unit":
				e.Unit = f.int()
			case "arrivalSequence":
				e.ArrivalSequence = f.long()
			case "ttl":
				e.TTLMillis = f.long()
			case "warning":
				e.WarningMillis = f.long()
			case "keyHash":
				e.KeyHash = f.bytes()
			case "regrantOf":
				e.RegrantOf = f.optionalID()
			default:
				f.giveUp()
			}
		}
		return e
	},
	"SlotExpiringSoon": func(f *flat) domain.Event {
		var e domain.SlotExpiringSoon
		for more := f.open(); more; more = f.more() {
			switch string(f.key) {
			case "userId":
				e.UserID = f.id()
			case "deadline":
				e.Deadline = f.time()
			default:
				f.giveUp()
			}
		}
		return e
	},
	"SlotExpired": func(f *flat) domain.Event {
		var e domain.SlotExpired
		for more := f.open(); more; more = f.more() {
			switch string(f.key) {
			case "userId":
				e.UserID = f.id()
			case "unit":
				e.Unit = f.int()
			case "arrivalSequence":
				e.ArrivalSequence = f.long()
			case "deadline":
				e.Deadline = f.time()
			case "reclaimStatus":
				e.ReclaimStatus = domain.ReclaimStatus(f.text())
			default:
				f.giveUp()
			}
		}
		return e
	},
	"PaymentInitiated": func(f *flat) domain.Event {
		var e domain.PaymentInitiated
		for more := f.open(); more; more = f.more() {
			switch string(f.key) {
			case "userId":
				e.UserID = f.id()
			case "paymentId":
				e.PaymentID = f.id()
			case "price":
				e.Price = f.money()
			case "method":
				e.Method = domain.PaymentMethod(f.text())
			default:
				f.giveUp()
			}
		}
		return e
	},
	"PaymentFailed": func(f *flat) domain.Event {
		var e domain.PaymentFailed
		for more := f.open(); more; more = f.more() {
			switch string(f.key) {
			case "userId":
				e.UserID = f.id()
			case "paymentId":
				e.PaymentID = f.id()
			case "gatewayPaymentId":
				e.GatewayPaymentID = f.text()
			case "reason":
				e.Reason = f.text()
			default:
				f.giveUp()
			}
		}
		return e
	},
	"PaymentCompleted": func(f *flat) domain.Event {
		var e domain.PaymentCompleted
		for more := f.open(); more; more = f.more() {
			switch string(f.key) {
			case "userId":
				e.UserID = f.id()
			case "paymentId":
				e.PaymentID = f.id()
			case "gatewayPaymentId":
				e.GatewayPaymentID = f.text()
			case "price":
				e.Price = f.money()
			case "method":
				e.Method = domain.PaymentMethod(f.text())
			default:
				f.giveUp()
			}
		}
		return e
	},
	"PaymentRegranted": func(f *flat) domain.Event {
		var e domain.PaymentRegranted
		for more := f.open(); more; more = f.more() {
			switch string(f.key) {
			case "userId":
				e.UserID = f.id()
			case "paymentId":
				e.PaymentID = f.id()
			case "gatewayPaymentId":
				e.GatewayPaymentID = f.text()
			case "newSlotId":
				e.NewSlotID = f.id()
			default:
				f.giveUp()
			}
		}
		return e
	},
	"RefundDue": func(f *flat) domain.Event {
		var e domain.RefundDue
		for more := f.open(); more; more = f.more() {
			switch string(f.key) {
			case "userId":
				e.UserID = f.id()
			case "paymentId":
				e.PaymentID = f.id()
			case "gatewayPaymentId":
				e.GatewayPaymentID = f.text()
			case "amount":
				e.Amount = f.money()
			case "reason":
				e.Reason = f.text()
			case "refundReference":
				e.RefundID = f.id()
			case "cause":
				e.Cause = domain.RefundCause(f.text())
			case "returnUnit":
				e.ReturnUnit = f.bool()
			default:
				f.giveUp()
			}
		}
		return e
	},
	"RefundPending": func(f *flat) domain.Event {
		var e domain.RefundPending
		for more := f.open(); more; more = f.more() {
			switch string(f.key) {
			case "userId":
				e.UserID = f.id()
			case "paymentId":
				e.PaymentID = f.id()
			case "refundReference":
				e.RefundID = f.id()
			case "refundId":
				e.GatewayRefundID = f.text()
			case "amount":
				e.Amount = f.money()
			default:
				f.giveUp()
			}
		}
		return e
	},
	"RefundCompleted": func(f *flat) domain.Event {
		var e domain.RefundCompleted
		for more := f.open(); more; more = f.more() {
			switch string(f.key) {
			case "userId":
				e.UserID = f.id()
			case "paymentId":
				e.PaymentID = f.id()
			case "refundReference":
				e.RefundID = f.id()
			case "refundId":
				e.GatewayRefundID = f.text()
			case "amount":
				e.Amount = f.money()
			default:
				f.giveUp()
			}
		}
		return e
	},
	"SlotReturned": func(f *flat) domain.Event {
		var e domain.SlotReturned
		for more := f.open(); more; more = f.more() {
			switch string(f.key) {
			case "userId":
				e.UserID = f.id()
			case "paymentId":
				e.PaymentID = f.id()
			case "unit":
				e.Unit = f.int()
			case "arrivalSequence":
				e.ArrivalSequence = f.long()
			default:
				f.giveUp()
			}
		}
		return e
	},
}
