package config

import (
	"strconv"
	"time"
)

// Simulation configures the behaviour of the payment gateway's simulator, by the settings of the
// same names.
type Simulation struct {
	SuccessRate, Refused, ActionRate                                  float64
	Latency                                                           time.Duration
	Lost, Repeated, Reordered                                         float64
	SlowRate                                                          float64
	SlowLatency                                                       time.Duration
	LostResponses, RepeatRejected, LowerCase                          float64
	Duplicated, Disputed, DisputesLost, RefundsPending, RefundsFailed float64
	CancelRefused, Misbehave                                          float64
	Seed                                                              uint64
}

// SimulationSettings are the settings of Simulation.
var SimulationSettings = []*Setting{
	SuccessRate, RefusedRate, ActionRate, Latency, LostRate, RepeatedRate, ReorderedRate, SlowRate, SlowLatency, LostResponses,
	RepeatRejected, LowerCase, Duplicated, Disputed, DisputesLost, RefundsPending, RefundsFailed, CancelRefused, Misbehave, Seed,
}

// Simulation reads SimulationSettings.
func (r *Reader) Simulation() Simulation {
	s := Simulation{
		SuccessRate: r.Share(SuccessRate), Refused: r.Share(RefusedRate), ActionRate: r.Share(ActionRate),
		Latency: r.Duration(Latency, 0),
		Lost:    r.Share(LostRate), Repeated: r.Share(RepeatedRate), Reordered: r.Share(ReorderedRate),
		SlowRate: r.Share(SlowRate), SlowLatency: r.Duration(SlowLatency, 0),
		LostResponses: r.Share(LostResponses), RepeatRejected: r.Share(RepeatRejected), LowerCase: r.Share(LowerCase),
		Duplicated: r.Share(Duplicated), Disputed: r.Share(Disputed), DisputesLost: r.Share(DisputesLost),
		RefundsPending: r.Share(RefundsPending), RefundsFailed: r.Share(RefundsFailed), CancelRefused: r.Share(CancelRefused),
		Misbehave: r.Share(Misbehave),
	}
	var err error
	if s.Seed, err = strconv.ParseUint(r.String(Seed), 10, 64); err != nil {
		r.Refuse(Seed, "is not such a number")
	}
	return s
}
