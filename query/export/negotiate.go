package export

import (
	"mime"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"
)

// Media types of lists.
const (
	TypeJSON   = "application/json"
	TypeCSV    = "text/csv"
	TypeNDJSON = "application/x-ndjson"
	ContentCSV = TypeCSV + "; charset=utf-8; header=present"
)

// Negotiate chooses the offer that the Accept headers prefer (RFC 9110, 12.5.1). Each offer has the
// quality of the most specific range that matches it. Between equals it prefers the more specific
// match, then the earlier one in the header, then the earlier offer. If nothing matches it returns
// the first offer.
func Negotiate(c echo.Context, offers ...string) string {
	c.Response().Header().Add("Vary", "Accept")
	var ranges []mediaRange
	for _, header := range c.Request().Header.Values("Accept") {
		for text := range strings.SplitSeq(header, ",") {
			if r, ok := parseRange(text); ok {
				r.index = len(ranges)
				ranges = append(ranges, r)
			}
		}
	}
	best, bestRange := offers[0], mediaRange{}
	for _, offer := range offers {
		var match mediaRange
		for _, r := range ranges {
			if r.matches(offer) && r.specific > match.specific {
				match = r
			}
		}
		if match.better(bestRange) {
			best, bestRange = offer, match
		}
	}
	return best
}

type mediaRange struct {
	kind, sub string
	quality   float64
	specific  int // 1: */*, 2: text/*, 3: text/csv; 0 matches nothing
	index     int
}

func parseRange(text string) (mediaRange, bool) {
	name, parameters, err := mime.ParseMediaType(text)
	if err != nil {
		return mediaRange{}, false
	}
	kind, sub, _ := strings.Cut(name, "/")
	r := mediaRange{kind: kind, sub: sub, quality: 1, specific: 3}
	if sub == "*" {
		r.specific = 2
	}
	if kind == "*" {
		r.specific = 1
	}
	if q, ok := parameters["q"]; ok {
		if r.quality, err = strconv.ParseFloat(q, 64); err != nil || r.quality < 0 || r.quality > 1 {
			return mediaRange{}, false
		}
	}
	return r, true
}

func (r mediaRange) matches(offer string) bool {
	kind, sub, _ := strings.Cut(offer, "/")
	return (r.kind == "*" || r.kind == kind) && (r.sub == "*" || r.sub == sub)
}

func (r mediaRange) better(than mediaRange) bool {
	switch {
	case r.quality == 0:
		return false // excluded explicitly, or not listed
	case r.quality != than.quality:
		return r.quality > than.quality
	case r.specific != than.specific:
		return r.specific > than.specific
	}
	return r.specific == 3 && r.index < than.index
}
