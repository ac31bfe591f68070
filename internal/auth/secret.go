package auth

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf16"
)

// secretOf returns the HS256 secret in a key file, without its final newline. It refuses a secret
// that is too short, and a key in an unsupported form: a public key used as a secret would be
// publicly known.
func secretOf(raw []byte) ([]byte, error) {
	secret, cut := bytes.CutSuffix(raw, []byte("\n"))
	if cut {
		secret = bytes.TrimSuffix(secret, []byte("\r"))
	}
	if form := keyForm(raw); form != "" {
		return nil, fmt.Errorf("holds %s, not an HS256 secret", form)
	}
	if len(secret) < minSecret {
		return nil, fmt.Errorf("a secret of %d bytes is too short", len(secret))
	}
	return secret, nil
}

// keyForm returns the form of a key, or of a reference to one, that is not PEM. It returns "" for
// anything else.
func keyForm(raw []byte) string {
	if isUTF16(raw) {
		return "text in UTF-16"
	}
	text := strings.TrimSpace(strings.TrimPrefix(string(raw), "\ufeff"))
	lower := strings.ToLower(text)
	switch {
	case isDER(raw):
		return "a key or certificate in DER"
	case isJWK([]byte(text)):
		return "a JSON Web Key or key set"
	case strings.HasPrefix(text, "---- BEGIN "): // RFC 4716
		return "a key of SSH"
	case strings.HasPrefix(lower, "<rsakeyvalue"):
		return "a key in XML"
	case isOpenSSH(text):
		return "a key of OpenSSH"
	case isURL(lower):
		return "a URL"
	}
	if der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err == nil && isDER(der) {
		return "a key or certificate in DER, in base64 without the lines of PEM"
	}
	return ""
}

// isUTF16 reports whether the bytes begin with UTF-16's byte order mark, or are plain text with
// every other byte zero.
func isUTF16(raw []byte) bool {
	if bytes.HasPrefix(raw, []byte{0xFF, 0xFE}) || bytes.HasPrefix(raw, []byte{0xFE, 0xFF}) {
		return true
	}
	const least = 16 // in bytes; random data does not have this many zeros at these places
	if len(raw) < least || len(raw)%2 != 0 {
		return false
	}
	for zeros := range 2 {
		units := make([]uint16, 0, len(raw)/2)
		for i := 0; i < len(raw); i += 2 {
			if raw[i+zeros] != 0 {
				break
			}
			units = append(units, uint16(raw[i+1-zeros]))
		}
		if len(units) == len(raw)/2 && len(utf16.Decode(units)) > 0 {
			return true
		}
	}
	return false
}

// isDER reports whether the bytes are a key or a certificate in one of the encodings
// that crypto/x509 knows.
func isDER(raw []byte) bool {
	const sequence = 0x30
	if len(raw) == 0 || raw[0] != sequence {
		return false
	}
	// The file may have a newline after what openssl wrote.
	for _, der := range [][]byte{raw, bytes.TrimRight(raw, "\r\n")} {
		for _, parse := range []func([]byte) error{
			func(b []byte) error { _, err := x509.ParsePKIXPublicKey(b); return err },
			func(b []byte) error { _, err := x509.ParsePKCS1PublicKey(b); return err },
			func(b []byte) error { _, err := x509.ParseCertificate(b); return err },
			func(b []byte) error { _, err := x509.ParseCertificateRequest(b); return err },
			func(b []byte) error { _, err := x509.ParsePKCS8PrivateKey(b); return err },
			func(b []byte) error { _, err := x509.ParsePKCS1PrivateKey(b); return err },
			func(b []byte) error { _, err := x509.ParseECPrivateKey(b); return err },
		} {
			if parse(der) == nil {
				return true
			}
		}
	}
	return false
}

// isJWK reports whether the text is a JSON object or array, which keys and key sets are, and random
// secrets are not.
func isJWK(text []byte) bool {
	return len(text) > 0 && (text[0] == '{' || text[0] == '[') && json.Valid(text)
}

// isOpenSSH reports whether the text is a public key as in id_ed25519.pub or authorized_keys: a
// type, and base64 that begins with the type's name.
func isOpenSSH(text string) bool {
	fields := strings.Fields(text)
	for i := 0; i+1 < len(fields); i++ {
		kind := fields[i]
		if !strings.HasPrefix(kind, "ssh-") && !strings.HasPrefix(kind, "ecdsa-sha2-") && !strings.HasPrefix(kind, "sk-") {
			continue
		}
		if strings.HasPrefix(fields[i+1], "AAAA") {
			return true
		}
	}
	return false
}

func isURL(text string) bool {
	for _, scheme := range []string{"http://", "https://", "file://"} {
		if strings.HasPrefix(text, scheme) {
			_, err := url.Parse(text)
			return err == nil
		}
	}
	return false
}

var errNotPEM = errors.New("begins like PEM but is not PEM")
