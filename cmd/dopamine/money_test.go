package main

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestMoneyResolve_NamesWhatIsWrong(t *testing.T) {
	unset(t)
	id := uuid.NewString()
	for name, tc := range map[string]struct {
		args []string
		word string
	}{
		"no payment":   {[]string{"--accept", "--note", "A"}, "one payment id"},
		"no UUID":      {[]string{"--accept", "--note", "A", "x"}, "not a payment id"},
		"no action":    {[]string{"--note", "A", id}, "give one of"},
		"two actions":  {[]string{"--accept", "--retry", "--note", "A", id}, "give one of"},
		"no note":      {[]string{"--accept", id}, "--note"},
		"note, prose":  {[]string{"--accept", "--note", "called Ms Kim", id}, "--note"},
		"no database":  {[]string{"--accept", "--note", "A", id}, "--database-url"},
		"flags behind": {[]string{id, "--accept", "--note", "A"}, "--database-url"},
	} {
		t.Run(name, func(t *testing.T) {
			exit, _, said := bounded(t, append([]string{"money", "resolve"}, tc.args...)...)
			require.Equal(t, 2, exit, said)
			require.Contains(t, said, tc.word)
		})
	}
}
