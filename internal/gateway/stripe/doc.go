// Package stripe implements the payment port over Stripe's API with the official
// library, and verifies and normalises Stripe's webhooks (contract 4.5).
//
// A payment is a PaymentIntent with automatic payment methods. Its id is the
// payment's gateway id, its client_secret the buyer's next action. Our ids are in
// metadata (store_id, reference, refund_reference), so that stores can share an
// account.
//
// # States
//
//	requires_payment_method, requires_confirmation, requires_action   requires_action
//	processing, requires_capture                                      pending
//	succeeded                                                         succeeded, amount_received
//	canceled                                                          canceled
//
// A PaymentIntent returns to requires_payment_method after a decline, so a decline
// is no failure of the payment: the buyer may try another card.
//
// # Look-ups
//
// By the PaymentIntent's id once it is known. Before that, for 23 hours from the
// first post, the create request is repeated with the same key and bytes: Stripe
// keeps keys for at least 24 hours and returns the PaymentIntent that there is, or
// creates the one that there is not. After that, by a search in metadata, whose
// index lags by up to an hour, so that finding nothing is an unknown outcome until
// an hour after the last post could have been.
//
// # What is not used
//
// The library's retries and telemetry are off, and its errors, which contain
// client secrets and free text, are reduced to status, type, code and request id.
package stripe
