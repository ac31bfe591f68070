package fairness_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain/fairness"
)

func TestLine_JSON(t *testing.T) {
	for _, text := range []string{
		`{"epoch":0,"type":"opened","units":100}`,
		`{"epoch":3,"type":"granted","sequence":30000000001,"unit":7}`,
		`{"epoch":3,"type":"returned","unit":7,"reason":"WITHDRAWN"}`,
		`{"epoch":0,"type":"refused","from":2,"to":11,"soldOut":4,"duplicate":3,"notStarted":2,"closed":1}`,
	} {
		l, err := fairness.ParseLine([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, text, string(l.AppendJSON(nil)))
	}
}

func TestParseLine_Errors(t *testing.T) {
	for text, want := range map[string]string{
		`[]`:         "not a JSON object",
		`{"epoch":0`: "not a JSON object",
		`{"epoch":0,"type":"opened","units":1} {}`:                                                          "unexpected data after",
		`{"epoch":0,"type":"opened"}`:                                                                       "units: missing",
		`{"epoch":0,"type":"opened","units":1,"x":1}`:                                                       "x: a line of this type has no such member",
		`{"epoch":0,"epoch":1,"type":"opened","units":1}`:                                                   "epoch: duplicate member",
		`{"epoch":0,"type":"opened","Units":1}`:                                                             "units: missing",
		`{"epoch":-1,"type":"opened","units":1}`:                                                            "epoch: -1 is not an integer",
		`{"epoch":0,"type":"opened","units":1.5}`:                                                           "units: 1.5 is not an integer",
		`{"epoch":0,"type":"opened","units":null}`:                                                          "units: null is not an integer",
		`{"epoch":0,"type":"closed","units":1}`:                                                             `type: unknown type "closed"`,
		`{"epoch":0,"type":"granted","sequence":1,"unit":0}`:                                                "unit: 0 is not an integer from 1 to 10000000",
		`{"epoch":0,"type":"returned","unit":1,"reason":"LOST"}`:                                            `reason: unknown reason "LOST"`,
		`{"epoch":0,"type":"refused","from":1,"to":1,"soldOut":-1,"duplicate":2,"notStarted":0,"closed":0}`: "soldOut: -1 is not an integer",
		`{"epoch":0,"type":"refused","from":1,"to":1,"soldOut":1,"duplicate":0,"notStarted":0}`:             "closed: missing",
	} {
		_, err := fairness.ParseLine([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

func TestReader_ContinuesAfterInvalidLine(t *testing.T) {
	r := fairness.NewReader(strings.NewReader(
		"{\"epoch\":0,\"type\":\"opened\",\"units\":1}\r\n\nnonsense\n{\"epoch\":0,\"type\":\"granted\",\"sequence\":1,\"unit\":1}"))
	l, err := r.Next()
	require.NoError(t, err)
	require.Equal(t, fairness.Opened, l.Type)

	_, err = r.Next()
	var parse *fairness.ParseError
	require.ErrorAs(t, err, &parse)
	require.Equal(t, 3, parse.Number)

	l, err = r.Next()
	require.NoError(t, err)
	require.Equal(t, fairness.Granted, l.Type)
	require.Equal(t, 4, r.Number())

	_, err = r.Next()
	require.ErrorIs(t, err, io.EOF)
}

func TestVerify_StopsAtTooLongLine(t *testing.T) {
	var wrong []error
	_, err := fairness.Verify(bytes.NewReader(bytes.Repeat([]byte("x"), 1<<20)), func(e error) { wrong = append(wrong, e) })
	require.ErrorContains(t, err, "line 1: longer than")
	require.Empty(t, wrong)
}
