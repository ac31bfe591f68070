package fairness

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// maxLineBytes is far above the longest line there is.
const maxLineBytes = 64 << 10

// ParseError reports which line of a log is invalid, and why.
type ParseError struct {
	Number int // from 1
	Err    error
}

func (e *ParseError) Error() string { return fmt.Sprintf("line %d: %v", e.Number, e.Err) }

// Unwrap is what is wrong with the line.
func (e *ParseError) Unwrap() error { return e.Err }

// Reader reads a log in its NDJSON form. Empty lines are passed over.
type Reader struct {
	scanner *bufio.Scanner
	number  int
}

// NewReader reads from r.
func NewReader(r io.Reader) *Reader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4<<10), maxLineBytes)
	return &Reader{scanner: s}
}

// Number is the number of the line that Next returned last, from 1.
func (r *Reader) Number() int { return r.number }

// Next is the next line; io.EOF after the last one, a *ParseError for one that
// is no line of a log (Next may be called again for the one after it), any
// other error where reading failed.
func (r *Reader) Next() (Line, error) {
	for r.scanner.Scan() {
		r.number++
		text := bytes.TrimSpace(r.scanner.Bytes())
		if len(text) == 0 {
			continue
		}
		l, err := ParseLine(text)
		if err != nil {
			return Line{}, &ParseError{r.number, err}
		}
		return l, nil
	}
	err := r.scanner.Err()
	switch {
	case err == nil:
		return Line{}, io.EOF
	case errors.Is(err, bufio.ErrTooLong):
		return Line{}, &ParseError{r.number + 1, fmt.Errorf("longer than %d bytes", maxLineBytes)}
	}
	return Line{}, fmt.Errorf("read decision log: %w", err)
}

// Verify folds a whole log and passes each line that cannot be parsed
// (*ParseError) or that violates a rule (*Break) to wrong, in order. The error
// reports that r could not be read to its end.
func Verify(r io.Reader, wrong func(error)) (Report, error) {
	lines, fold := NewReader(r), NewFold()
	for {
		l, err := lines.Next()
		var parse *ParseError
		switch {
		case err == nil:
			var broken *Break
			if errors.As(fold.Add(l), &broken) {
				broken.Number = lines.Number()
				wrong(broken)
			}
		case errors.Is(err, io.EOF):
			return fold.Report(), nil
		case errors.As(err, &parse) && !errors.Is(lines.scanner.Err(), bufio.ErrTooLong):
			wrong(err)
		default:
			return fold.Report(), err
		}
	}
}
