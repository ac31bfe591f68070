package redis_test

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/redis"
)

// Decide a request, and give the unit back if the grant could not be appended.
func ExampleGate_Decide() {
	ctx := context.Background()
	var store redis.Store // command/gatestore implements it
	gate, err := redis.Open(ctx, []string{"redis://localhost:6379/0"}, store, redis.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = gate.Close() }()

	decision, err := gate.Decide(ctx, redis.Request{Product: uuid.New(), Buyer: uuid.New()})
	if err != nil {
		panic(err) // ErrUnknownProduct, or ErrUnavailable: respond 503
	}
	switch decision.Outcome {
	case redis.Granted:
		appended := false // append SlotAcquired with the claim; only that makes the grant final
		if !appended && decision.Deliveries == 1 {
			fmt.Println(gate.GiveBack(ctx, decision))
		}
	case redis.Held:
		fmt.Println("read the claim; if it is gone, call Sync and decide again")
	default:
		fmt.Println("refused:", decision.Outcome)
	}
}
