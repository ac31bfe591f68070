package gatewaysim

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Options configure the simulator. Shares are probabilities from 0 to 1.
type Options struct {
	// Addr is the host:port to listen on; port 0 chooses a free one.
	Addr string
	// WebhookSecrets sign callbacks, each as whsec_<base64>: all of them, so that
	// one can be rotated. At least one.
	WebhookSecrets []string
	// Key is required as "Authorization: Bearer" if it is not empty.
	Key string
	// Books is the journal's file; "": the books are kept in memory only.
	Books string

	Behavior

	// Seed makes chance repeatable; 0: another seed each time.
	Seed uint64
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Behavior is the reliability of the simulator. Each share is independent.
type Behavior struct {
	SuccessRate float64       // of payments that are carried out, those that succeed
	Latency     time.Duration // from a payment's start, or its confirmation, to its outcome
	Refused     float64       // payments that are rejected at once, by 402
	ActionRate  float64       // payments that the buyer has to confirm

	Lost, Repeated, Reordered float64 // callbacks

	SlowRate       float64       // responses that are sent after SlowLatency
	SlowLatency    time.Duration //
	LostResponses  float64       // POSTs that take effect and whose connection then breaks
	RepeatRejected float64       // repeated POSTs of a payment that meet a 4xx without the contract's body
	LowerCase      float64       // payments reported with the currency in lower case
	Duplicated     float64       // successful payments that are charged twice
	Disputed       float64       // successful payments that are disputed
	DisputesLost   float64       // of disputes, those that the shop loses
	RefundsPending float64       // refunds that are pending at first
	RefundsFailed  float64       // refunds that fail: pending ones in the end, others after they had succeeded
	CancelRefused  float64       // cancellations that are refused
}

// Misbehaving returns b with every share of misbehaviour raised to at least share.
func (b Behavior) Misbehaving(share float64) Behavior {
	for _, p := range []*float64{
		&b.ActionRate, &b.Lost, &b.Repeated, &b.Reordered, &b.SlowRate, &b.LostResponses, &b.RepeatRejected, &b.LowerCase,
		&b.Duplicated, &b.Disputed, &b.DisputesLost, &b.RefundsPending, &b.RefundsFailed, &b.CancelRefused,
	} {
		*p = max(*p, share)
	}
	return b
}

func (o Options) validate() error {
	var errs []error
	for _, share := range []struct {
		name  string
		value float64
	}{
		{"success-rate", o.SuccessRate}, {"refused", o.Refused}, {"action-rate", o.ActionRate},
		{"lost", o.Lost}, {"repeated", o.Repeated}, {"reordered", o.Reordered},
		{"slow-rate", o.SlowRate}, {"lost-responses", o.LostResponses}, {"repeat-rejected", o.RepeatRejected}, {"lower-case", o.LowerCase},
		{"duplicated", o.Duplicated}, {"disputed", o.Disputed}, {"disputes-lost", o.DisputesLost},
		{"refunds-pending", o.RefundsPending}, {"refunds-failed", o.RefundsFailed}, {"cancel-refused", o.CancelRefused},
	} {
		if !(share.value >= 0 && share.value <= 1) {
			errs = append(errs, fmt.Errorf("%s must be a share from 0 to 1, not %v", share.name, share.value))
		}
	}
	if o.Latency < 0 || o.SlowLatency < 0 {
		errs = append(errs, fmt.Errorf("latency and slow-latency must be 0 or more, not %s and %s", o.Latency, o.SlowLatency))
	}
	if len(o.WebhookSecrets) == 0 {
		errs = append(errs, errors.New("webhook-secrets must have at least one secret"))
	}
	return errors.Join(errs...)
}
