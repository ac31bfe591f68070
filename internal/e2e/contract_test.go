package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// origin is the origin of a page that may call the APIs.
const origin = "https://shop.example.com"

// site is one dev as its users see it.
type site struct {
	t              *testing.T
	command, query string
	users          *clients
	admin          *client
	attackers      *http.Client // of TestAttacks
}

// TestContract checks contract 4.2, 4.3 and 7 by HTTP only, like a client that knows only
// the contract.
func TestContract(t *testing.T) {
	s := openSite(t)
	for name, part := range map[string]func(*site){
		"products are created as requested":   (*site).creates,
		"what cannot be created":              (*site).refusesToCreate,
		"products are updated":                (*site).updates,
		"what cannot be updated":              (*site).refusesToUpdate,
		"the sale's dates move":               (*site).movesTheSale,
		"a product's status":                  (*site).showsStatus,
		"lists of products":                   (*site).listsProducts,
		"deleted products":                    (*site).deletes,
		"slots are acquired":                  (*site).acquires,
		"refusals in their order":             (*site).refusesInOrder,
		"idempotency keys":                    (*site).remembersKeys,
		"slots are given up and reclaimed":    (*site).releases,
		"whose slots":                         (*site).showsSlotsToWhom,
		"the audit":                           (*site).audits,
		"purchases":                           (*site).pays,
		"fairness":                            (*site).isFair,
		"the past":                            (*site).travels,
		"the first of several problems":       (*site).answersTheFirstProblem,
		"problem documents":                   (*site).describesProblems,
		"tokens":                              (*site).checksTokens,
		"trace ids":                           (*site).tracesEverything,
		"positions":                           (*site).readsOwnWrites,
		"requests above the rate":             (*site).limitsBuyers,
		"other origins":                       (*site).allowsOrigins,
		"health, metrics and the description": (*site).showsHealth,
	} {
		t.Run(name, func(t *testing.T) {
			part(s.in(t))
		})
	}
}

func (s *site) in(t *testing.T) *site {
	part, users := *s, *s.users
	users.t = t
	part.t, part.users, part.admin = t, &users, users.admin()
	return &part
}

// openSite starts a dev on a shared database and Redis, with a gateway that always succeeds and
// loses nothing, and additional arguments.
func openSite(t *testing.T, args ...string) *site {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	gateway, command := freeAddr(t), freeAddr(t)
	secret := []string{"DOPAMINE_WEBHOOK_SECRETS=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
	start(t, "gateway-sim", secret, "gateway-sim", "--addr", gateway, "--success-rate", "1", "--latency", "50ms",
		"--lost", "0", "--repeated", "0.5", "--reordered", "0").ready()
	start(t, "dev", secret, append([]string{"dev", "--data", data, "--command-addr", command, "--query-addr", "127.0.0.1:0",
		"--database-url", dbtest.Both(t).URL, "--redis-url", testkit.Redis(t), "--gateway-url", "http://" + gateway,
		"--cors-origins", origin, "--log-format", "json"}, args...)...).ready()
	values, err := config.ReadEnvFile(data)
	require.NoError(t, err)
	require.Equal(t, command, values["command-addr"])
	_, err = os.Stat(filepath.Join(data, "jwt.key"))
	require.NoError(t, err, "dev keeps its key in its data folder")
	users := newClients(t, filepath.Join(data, "jwt.key"))
	return &site{t: t, command: "http://" + command, query: "http://" + values["query-addr"], users: users, admin: users.admin()}
}

// Forms that the contract names.
var (
	aTime  = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)
	anID   = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	aTrace = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// fields checks that an object has exactly these fields.
func fields(t *testing.T, o any, names ...string) {
	t.Helper()
	require.IsType(t, object{}, o)
	var have []string
	for name := range o.(object) {
		have = append(have, name)
	}
	require.ElementsMatch(t, names, have)
}

var (
	productFields = []string{"id", "name", "description", "price", "currency", "stock", "initialStock", "totalStock", "saleDate", "saleEndDate",
		"paused", "status", "createdAt", "updatedAt", "cancellation"}
	slotFields = []string{"id", "productId", "productName", "userId", "unit", "arrivalSequence", "acquisitionTimestamp", "expirationTimestamp",
		"status", "remainingTimeSeconds", "createdAt", "regrantOf", "endedAt", "reclaimStatus"}
	paymentFields = []string{"id", "purchaseSlotId", "productId", "userId", "paymentId", "paymentStatus", "amount", "currency", "paymentMethod",
		"confirmationTimestamp", "failureReason", "refundStatus", "createdAt", "updatedAt", "refundedAmount", "disputed", "reversed"}
	auditFields = []string{"eventId", "type", "slotId", "productId", "userId", "oldStatus", "newStatus", "traceId", "actor", "recordedAt",
		"position", "metadata"}
)
