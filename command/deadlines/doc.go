// Package deadlines finds the slots for which an action is due: to expire, to time out with a
// pending payment, or to warn their owners. The worker polls it and acts.
//
// Due times are the columns due_at and warn_at of slot_claims, which the guard of package claims
// writes. While a payment is pending, due_at is later than the deadline. All times are compared
// with the event store's clock (eventstore.ClockSQL).
package deadlines
