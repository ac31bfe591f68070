package redis

import (
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
type address struct {
	seeds  []string // host:port; of the Sentinels if master is set
	master string   // the name by which the Sentinels know the master, "" for none
	// options apply to each server; their Addr is the first seed's.
	options *goredis.Options
	// sentinelUser and sentinelPassword are the credentials for the Sentinels.
	sentinelUser, sentinelPassword string
}

// CheckURLs reports what is wrong with the URLs of Redis, without connecting.
func CheckURLs(urls []string) error {
	_, err := parseURLs(urls)
	return err
}

// parseURLs parses one URL, or several of the same Redis. Options that may not differ
// between them may be given with any of them, since a list is often written with its
// options at its end.
func parseURLs(urls []string) (*address, error) {
	wrong := func(format string, args ...any) (*address, error) {
		return nil, fmt.Errorf("%w: %s", ErrAddress, fmt.Sprintf(format, args...))
	}
	if len(urls) == 0 {
		return wrong("no URL is given")
	}
	a := &address{}
	var scheme, user, path, query string
	for i, text := range urls {
		u, err := url.Parse(text)
		if err != nil { // the error would repeat the text, password included
			return wrong("URL %d of %d is invalid", i+1, len(urls))
		}
		if u.Scheme == "unix" {
			if len(urls) > 1 {
				return wrong("a socket cannot be one of several nodes")
			}
			if a.options, err = goredis.ParseURL(text); err != nil {
				return wrong("the URL must look like unix:///run/redis.sock")
			}
			a.seeds = []string{a.options.Addr}
			return a, nil
		}
		if i > 0 && u.Scheme != scheme {
			return wrong("some URLs are %s:// and others %s://: all nodes must use the same", scheme, u.Scheme)
		}
		scheme = u.Scheme
		own := "" // userinfo given so far
		if u.User != nil {
			own = u.User.String()
		}
		if own != "" && user != "" && own != user {
			return wrong("the URLs have different user names or passwords: the nodes must have the same")
		}
		if own != "" {
			user = own
		}
		if u.Path != "" && u.Path != "/" {
			if path != "" && path != u.Path {
				return wrong("the URLs name different databases")
			}
			path = u.Path
		}
		q := u.Query()
		if name := q.Get("master_name"); name != "" {
			if a.master != "" && a.master != name {
				return wrong("the URLs name different masters, %q and %q: give the Sentinels of one", a.master, name)
			}
			a.master = name
		} else if q.Has("master_name") {
			return wrong("master_name is empty")
		}
		for name, into := range map[string]*string{"sentinel_username": &a.sentinelUser, "sentinel_password": &a.sentinelPassword} {
			if value := q.Get(name); value != "" {
				if *into != "" && *into != value {
					return wrong("the URLs have different values of %s", name)
				}
				*into = value
			}
			q.Del(name)
		}
		q.Del("master_name")
		if rest := q.Encode(); rest != "" {
			if query != "" && query != rest {
				return wrong("the URLs have different options")
			}
			query = rest
		}
		port := u.Port()
		if port == "" {
			port = "6379"
		}
		host := u.Hostname()
		if host == "" {
			host = "localhost"
		}
		if seed := net.JoinHostPort(host, port); !slices.Contains(a.seeds, seed) {
			a.seeds = append(a.seeds, seed)
		}
	}
	if a.master == "" && (a.sentinelUser != "" || a.sentinelPassword != "") {
		return wrong("sentinel_username and sentinel_password need master_name")
	}
	whole := url.URL{Scheme: scheme, Host: a.seeds[0], Path: path, RawQuery: query}
	options, err := goredis.ParseURL(whole.String()) // contains no password, so its error may be shown
	if err != nil {
		return wrong("a URL must look like redis://host:6379/0: %v", err)
	}
	if user != "" {
		u := url.URL{Scheme: scheme, Host: a.seeds[0]}
		if whole, err := url.Parse(scheme + "://" + user + "@" + a.seeds[0]); err == nil {
			u.User = whole.User
		}
		options.Username = u.User.Username()
		options.Password, _ = u.User.Password()
	}
	a.options = options
	if len(a.seeds) > 1 && a.master == "" && options.DB != 0 {
		return wrong("a Redis Cluster has only database 0, the URL names %d", options.DB)
	}
	return a, nil
}

// credentialsError turns a server's rejection of the URL's user into an ErrAddress. Other
// errors are returned unchanged.
func credentialsError(err error) error {
	for _, code := range []string{"WRONGPASS", "NOAUTH", "NOPERM"} {
		if strings.Contains(err.Error(), code) {
			return fmt.Errorf("%w: the server rejected the URL's user name, password or permissions: %w", ErrAddress, err)
		}
	}
	return err
}

// trust makes ca the only authority for the servers' certificates; nil changes nothing.
func (a *address) trust(ca *x509.CertPool) error {
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
func (a *address) of(addr string) *goredis.Options {
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
func (a *address) ofSentinel(addr string) *goredis.Options {
	opt := a.of(addr)
	opt.Username, opt.Password = a.sentinelUser, a.sentinelPassword
	return opt
}
