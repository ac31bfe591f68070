package main

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// TestQueryAPI_StartsWithoutTheWriteDatabase: requests that do not depend on the write side are
// served while it is unavailable (contract 2, R9).
func TestQueryAPI_StartsWithoutTheWriteDatabase(t *testing.T) {
	unset(t)
	read := dbtest.Both(t)
	key := filepath.Join(t.TempDir(), "jwt.key")
	require.NoError(t, os.WriteFile(key, []byte(strings.Repeat("k", 32)), 0o600))
	port, err := devservices.FreePort()
	require.NoError(t, err)
	addr := "127.0.0.1:" + strconv.Itoa(port)
	ctx, stop := context.WithCancel(t.Context())
	var errs bytes.Buffer
	exit := make(chan int, 1)
	go func() {
		exit <- run(ctx, []string{"dopamine", "query-api", "--query-addr", addr, "--jwt-key", key, "--drain-delay", "0s",
			"--database-url", "postgres://" + nobodyListens + "/x", "--read-database-url", read.URL}, &bytes.Buffer{}, &errs)
	}()
	testkit.Eventually(t, 20*time.Second, "a list of products", func() error {
		res, err := http.Get("http://" + addr + "/v1/products")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return errStatus(res.Status)
		}
		return nil
	})
	stop()
	require.Equal(t, 0, <-exit, errs.String())
}

type errStatus string

func (e errStatus) Error() string { return string(e) }
