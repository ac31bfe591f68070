package httpapi

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// trustedProxies are the addresses whose X-Forwarded-For is trusted.
type trustedProxies []netip.Prefix

// ParseTrustedProxies reads addresses and CIDR blocks.
func ParseTrustedProxies(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range list {
		if addr, err := netip.ParseAddr(text); err == nil {
			addr = addr.Unmap()
			out = append(out, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q is neither an IP address nor a CIDR block", text)
		}
		out = append(out, prefix.Masked())
	}
	return out, nil
}

func (t trustedProxies) contains(addr netip.Addr) bool {
	for _, prefix := range t {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// addressOf parses host:port. It returns the zero Addr if that is not an IP address, as for a Unix
// socket.
func addressOf(hostPort string) netip.Addr {
	p, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap().WithZone("")
}

// clientAddress returns the client's address: the peer's, or, if the peer is a trusted proxy, the
// last address in X-Forwarded-For that is not a trusted proxy's. Entries further left are set by
// the client. If an entry is not an address, the proxy that added it counts as the client.
func (t trustedProxies) clientAddress(r *http.Request) netip.Addr {
	addr := addressOf(r.RemoteAddr)
	if len(t) == 0 || !t.contains(addr) {
		return addr
	}
	headers := r.Header["X-Forwarded-For"]
	for i := len(headers) - 1; i >= 0; i-- {
		entries := strings.Split(headers[i], ",")
		for j := len(entries) - 1; j >= 0; j-- {
			next, err := forwardedAddress(strings.TrimSpace(entries[j]))
			if err != nil {
				return addr
			}
			if addr = next; !t.contains(addr) {
				return addr
			}
		}
	}
	return addr
}

// forwardedAddress reads an entry of X-Forwarded-For; some proxies add the port.
func forwardedAddress(text string) (netip.Addr, error) {
	if p, err := netip.ParseAddrPort(text); err == nil {
		return p.Addr().Unmap().WithZone(""), nil
	}
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return addr.Unmap().WithZone(""), err
}

// clientKey returns the key for limits by address: the address, or its /64 for IPv6, which one
// client usually has.
func clientKey(addr netip.Addr) netip.Addr {
	const clientBits = 64
	if !addr.Is6() {
		return addr
	}
	prefix, err := addr.Prefix(clientBits)
	if err != nil {
		return addr
	}
	return prefix.Addr()
}
