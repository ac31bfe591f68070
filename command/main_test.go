package command

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// If these name its services, the test binary runs as a command API's process.
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
