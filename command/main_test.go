package command

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// The test binary is a command API's process where these name its services.
const (
	processDatabase = "DOPAMINE_TEST_API_DATABASE"
	processRedis    = "DOPAMINE_TEST_API_REDIS"
	processKey      = "DOPAMINE_TEST_API_KEY"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(processDatabase); url != "" {
		if err := beAPI(url, os.Getenv(processRedis), os.Getenv(processKey)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}
