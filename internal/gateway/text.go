package gateway

import (
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
)

// Bounds on text that a gateway sends.
const (
	maxID           = 255
	maxUnreadable   = 200
	maxURL          = 2000
	maxClientSecret = 1000
)

var code = regexp.MustCompile(`^[A-Z0-9_]{1,64}$`)

// Code returns reason in upper case if that is a code (contract 4.1), and
// otherwise DECLINED: free text from a gateway may name a person.
func Code(reason string) string {
	if reason = strings.ToUpper(reason); code.MatchString(reason) {
		return reason
	}
	return domain.ReasonDeclined
}

// ID returns id if it is 1 to 255 printable ASCII characters, and otherwise "".
func ID(id string) string {
	if len(id) > maxID || strings.ContainsFunc(id, func(r rune) bool { return r < '!' || r > '~' }) {
		return ""
	}
	return id
}

// Report reads an amount and a currency as a gateway reported them. It folds the
// currency's case and never fails: what is not money (an unknown currency, a
// negative amount, 10^15 or more) is kept as text.
func Report(amount decimal.Decimal, currency string) *Paid {
	money, err := domain.NewPaid(amount, strings.ToUpper(currency))
	if err != nil {
		return &Paid{Unreadable: printable(amount.String() + " " + currency)}
	}
	return &Paid{Money: money}
}

// printable replaces what is not printable ASCII and limits the length.
func printable(s string) string {
	s = s[:min(len(s), maxUnreadable)]
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if s = strings.TrimSpace(s); s == "" {
		return "none"
	}
	return s
}

// valid returns a if the buyer's page can follow it safely, and otherwise nil: a
// script URL is none.
func (a *NextAction) valid() *NextAction {
	if a == nil {
		return nil
	}
	switch a.Type {
	case Redirect:
		if !SafeURL(a.URL) {
			return nil
		}
		return &NextAction{Type: Redirect, URL: a.URL}
	case ClientSecret:
		if a.ClientSecret == "" || len(a.ClientSecret) > maxClientSecret || len(a.PublishableKey) > maxClientSecret {
			return nil
		}
		return &NextAction{Type: ClientSecret, ClientSecret: a.ClientSecret, PublishableKey: a.PublishableKey}
	}
	return nil
}

// SafeURL reports whether a buyer may be sent to s: https, or http at a loopback
// address, without user information, 2,000 characters at most.
func SafeURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || len(s) > maxURL || u.Hostname() == "" || u.User != nil || u.Opaque != "" {
		return false
	}
	return u.Scheme == "https" || (u.Scheme == "http" && loopback(u.Hostname()))
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
