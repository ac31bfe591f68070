package topology

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	goredis "github.com/redis/go-redis/v9"
)

// ErrAddress matches errors of the URLs themselves: retrying does
// not help. Its text contains no password.
var ErrAddress = errors.New("redis")

// address locates a Redis: one server, nodes of a cluster, or the Sentinels of
// a master.
type Address struct {
	seeds  []string // host:port; of the Sentinels if master is set
	master string   // the name by which the Sentinels know the master, "" for none
	// options apply to each server; their Addr is the first seed's.
	options *goredis.Options
	// sentinelUser and sentinelPassword are the credentials for the Sentinels.
	sentinelUser, sentinelPassword string
}

// CheckURLs reports what is wrong with the URLs of Redis, without connecting.
func CheckURLs(urls []string) error {
	_, err := ParseURLs(urls)
	return err
}

// wrongURL returns an ErrAddress.
func wrongURL(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrAddress, fmt.Sprintf(format, args...))
}

// ParseURLs parses one URL, or several of the same Redis. Options that may not differ
// between them may be given with any of them, since a list is often written with its
// options at its end.
func ParseURLs(urls []string) (*Address, error) {
	if len(urls) == 0 {
		return nil, wrongURL("no URL is given")
	}
	a := &Address{}
	var all urlParts
	for i, text := range urls {
		u, err := url.Parse(text)
		if err != nil { // the error would repeat the text, password included
			return nil, wrongURL("URL %d of %d is invalid", i+1, len(urls))
		}
		if u.Scheme == "unix" {
			return socketAddress(text, len(urls) > 1)
		}
		if i > 0 && u.Scheme != all.scheme {
			return nil, wrongURL("some URLs are %s:// and others %s://: all nodes must use the same", all.scheme, u.Scheme)
		}
		if err := all.merge(u); err != nil {
			return nil, err
		}
		if err := a.mergeSentinels(u.Query()); err != nil {
			return nil, err
		}
		seed := net.JoinHostPort(cmp.Or(u.Hostname(), "localhost"), cmp.Or(u.Port(), "6379"))
		if !slices.Contains(a.seeds, seed) {
			a.seeds = append(a.seeds, seed)
		}
	}
	if a.master == "" && (a.sentinelUser != "" || a.sentinelPassword != "") {
		return nil, wrongURL("sentinel_username and sentinel_password need master_name")
	}
	var err error
	if a.options, err = all.options(a.seeds[0]); err != nil {
		return nil, err
	}
	if len(a.seeds) > 1 && a.master == "" && a.options.DB != 0 {
		return nil, wrongURL("a Redis Cluster has only database 0, the URL names %d", a.options.DB)
	}
	return a, nil
}

func socketAddress(text string, several bool) (*Address, error) {
	if several {
		return nil, wrongURL("a socket cannot be one of several nodes")
	}
	options, err := goredis.ParseURL(text)
	if err != nil {
		return nil, wrongURL("the URL must look like unix:///run/redis.sock")
	}
	return &Address{options: options, seeds: []string{options.Addr}}, nil
}

// urlParts are what several URLs have in common; user is userinfo as it is written in a URL.
type urlParts struct{ scheme, user, path, query string }

// merge adds what u has of them. What was given before may not differ.
func (p *urlParts) merge(u *url.URL) error {
	p.scheme = u.Scheme
	if u.User.String() != "" {
		if p.user != "" && p.user != u.User.String() {
			return wrongURL("the URLs have different user names or passwords: the nodes must have the same")
		}
		p.user = u.User.String()
	}
	if u.Path != "" && u.Path != "/" {
		if p.path != "" && p.path != u.Path {
			return wrongURL("the URLs name different databases")
		}
		p.path = u.Path
	}
	q := u.Query()
	for _, name := range []string{"master_name", "sentinel_username", "sentinel_password"} {
		q.Del(name)
	}
	if rest := q.Encode(); rest != "" {
		if p.query != "" && p.query != rest {
			return wrongURL("the URLs have different options")
		}
		p.query = rest
	}
	return nil
}

// options returns go-redis' options for the server at addr.
func (p *urlParts) options(addr string) (*goredis.Options, error) {
	whole := url.URL{Scheme: p.scheme, Host: addr, Path: p.path, RawQuery: p.query}
	options, err := goredis.ParseURL(whole.String()) // contains no password, so its error may be shown
	if err != nil {
		return nil, wrongURL("a URL must look like redis://host:6379/0: %v", err)
	}
	if p.user != "" {
		if u, err := url.Parse(p.scheme + "://" + p.user + "@" + addr); err == nil {
			options.Username = u.User.Username()
			options.Password, _ = u.User.Password()
		}
	}
	return options, nil
}

// mergeSentinels adds what a URL's query has about Sentinels.
func (a *Address) mergeSentinels(q url.Values) error {
	if name := q.Get("master_name"); name != "" {
		if a.master != "" && a.master != name {
			return wrongURL("the URLs name different masters, %q and %q: give the Sentinels of one", a.master, name)
		}
		a.master = name
	} else if q.Has("master_name") {
		return wrongURL("master_name is empty")
	}
	for name, into := range map[string]*string{"sentinel_username": &a.sentinelUser, "sentinel_password": &a.sentinelPassword} {
		if value := q.Get(name); value != "" {
			if *into != "" && *into != value {
				return wrongURL("the URLs have different values of %s", name)
			}
			*into = value
		}
	}
	return nil
}

// CredentialsError turns a server's rejection of the URL's user into an ErrAddress. Other
// errors are returned unchanged.
func CredentialsError(err error) error {
	for _, code := range []string{"WRONGPASS", "NOAUTH", "NOPERM"} {
		if strings.Contains(err.Error(), code) {
			return fmt.Errorf("%w: the server rejected the URL's user name, password or permissions: %w", ErrAddress, err)
		}
	}
	return err
}

// Trust makes ca the only authority for the servers' certificates; nil changes nothing.
func (a *Address) Trust(ca *x509.CertPool) error {
	switch {
	case ca == nil:
	case a.options.TLSConfig == nil:
		return fmt.Errorf("%w: a certificate authority is given, but the URL does not use TLS; use rediss://", ErrAddress)
	default:
		a.options.TLSConfig.RootCAs = ca
	}
	return nil
}

// of returns the options for a server. A certificate is verified against the name under
// which a node is announced; if it is announced by its IP address, against the name in
// the URL.
func (a *Address) of(addr string) *goredis.Options {
	opt := *a.options
	if addr == opt.Addr {
		return &opt
	}
	opt.Addr = addr
	if host, _, err := net.SplitHostPort(addr); err == nil && opt.TLSConfig != nil && net.ParseIP(host) == nil {
		opt.TLSConfig = opt.TLSConfig.Clone()
		opt.TLSConfig.ServerName = host
	}
	return &opt
}

// ofSentinel returns the options for a Sentinel.
func (a *Address) ofSentinel(addr string) *goredis.Options {
	opt := a.of(addr)
	opt.Username, opt.Password = a.sentinelUser, a.sentinelPassword
	return opt
}
