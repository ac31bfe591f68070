package gatewaysim

import (
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/gateway"
)

// disputeDelay bounds the time until a dispute is opened, and until it is closed,
// after the latency.
const disputeDelay = time.Second

// begin starts what a payment does without its buyer.
func (s *Server) begin(p payment) {
	switch p.Status {
	case gateway.Pending:
		s.work.Go(func() { s.carryOut(p.Reference) })
	case gateway.RequiresAction:
		s.report(p)
	}
}

// resume continues what a restart interrupted.
func (s *Server) resume() {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	for _, p := range s.books.order {
		reference := p.Reference // read under the lock
		switch {
		case p.Status == gateway.Pending:
			s.work.Go(func() { s.carryOut(reference) })
		case p.Status == gateway.Succeeded && p.Fate.Disputed:
			s.work.Go(func() { s.dispute(reference) })
		}
	}
	for _, r := range s.books.returned {
		if reference := r.Reference; !r.Settled {
			s.work.Go(func() { s.settleRefund(reference) })
		}
	}
	for _, m := range s.books.messages {
		undelivered := *m
		s.work.Go(func() { s.deliver(undelivered, true) })
	}
}

// carryOut decides a payment after the latency and reports it.
func (s *Server) carryOut(reference uuid.UUID) {
	if s.pause(s.opts.Latency) != nil {
		return
	}
	var second, first *message
	p, decided, err := s.change(reference, func(p *payment) (*message, error) {
		if p.Status != gateway.Pending {
			return nil, errUnchanged
		}
		if !p.Fate.Succeeds {
			p.Status, p.Reason = gateway.Failed, reasonDeclined
			return nil, nil
		}
		p.Status = gateway.Succeeded
		if !p.Fate.Duplicated {
			return nil, nil
		}
		p.Charges = append(p.Charges, charge{ID: "pay_" + uuid.NewString()})
		data := p.callbackData()
		data.PaymentID = p.Charges[1].ID
		m, err := newMessage(p.CallbackURL, string(gateway.PaymentSucceeded), data)
		second = &m
		return second, err
	})
	if err != nil || !decided {
		s.failed("carry out a payment", reference, err)
		return
	}
	if second == nil {
		s.report(p)
	} else {
		// The order of the callbacks decides which of the two charges is the second one, so neither
		// may be lost.
		if m, err := newMessage(p.CallbackURL, string(gateway.PaymentSucceeded), p.callbackData()); err == nil {
			s.books.mu.Lock()
			stored := m
			err = s.books.put(record{Message: &stored})
			s.books.mu.Unlock()
			s.failed("store a callback", reference, err)
			first = &m
		}
		for _, m := range []*message{first, second} {
			if m != nil {
				s.work.Go(func() { s.deliver(*m, true) })
			}
		}
	}
	if p.Status == gateway.Succeeded && p.Fate.Disputed {
		s.work.Go(func() { s.dispute(reference) })
	}
}

// dispute opens a dispute of a payment that succeeded, and closes it. If money of the charge has
// been returned, it is not disputed, or the shop wins.
func (s *Server) dispute(reference uuid.UUID) {
	p, ok := s.books.find(reference)
	if !ok || (p.Charges[0].Dispute != "" && !p.Charges[0].Open) {
		return
	}
	if p.Charges[0].Dispute == "" && !s.openDispute(reference) {
		return
	}
	s.closeDispute(reference)
}

func (s *Server) openDispute(reference uuid.UUID) bool {
	if s.pause(s.opts.Latency+s.upTo(disputeDelay)) != nil {
		return false
	}
	var opened *message
	_, changed, err := s.change(reference, func(p *payment) (*message, error) {
		c := &p.Charges[0]
		if s.books.covered(c.ID).IsPositive() {
			p.Fate.Disputed = false
			return nil, nil
		}
		c.Dispute, c.Open = "dp_"+uuid.NewString(), true
		data := p.callbackData()
		data.DisputeID = c.Dispute
		m, err := newMessage(p.CallbackURL, string(gateway.PaymentDisputed), data)
		opened = &m
		return opened, err
	})
	if err != nil || !changed || opened == nil {
		s.failed("open a dispute", reference, err)
		return false
	}
	s.work.Go(func() { s.deliver(*opened, true) })
	return true
}

func (s *Server) closeDispute(reference uuid.UUID) {
	if s.pause(s.opts.Latency+s.upTo(disputeDelay)) != nil {
		return
	}
	var closed *message
	_, changed, err := s.change(reference, func(p *payment) (*message, error) {
		c := &p.Charges[0]
		c.Open = false
		won := !p.Fate.DisputeLost || s.books.covered(c.ID).IsPositive()
		if !won {
			amount := p.Amount
			c.Reversed = &amount
		}
		data := p.callbackData()
		data.DisputeID, data.Won = c.Dispute, &won
		m, err := newMessage(p.CallbackURL, string(gateway.PaymentDisputeClosed), data)
		closed = &m
		return closed, err
	})
	if err != nil || !changed {
		s.failed("close a dispute", reference, err)
		return
	}
	s.deliver(*closed, true)
}

func (s *Server) failed(what string, reference uuid.UUID, err error) {
	if err != nil {
		s.log.Error(what+" failed", "payment", reference, "error", err)
	}
}
