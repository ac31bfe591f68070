package main

import (
	"context"
	"fmt"
	"time"

	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/internal/gateway/stripe"
)

// paymentSettings are the settings of everything that has to do with payments.
type paymentSettings struct {
	gateway                       gatewaySettings
	callbackURL                   string
	timeout, slotTTL, slotWarning time.Duration
}

// gatewaySettings select the payment gateway, with the credentials.
type gatewaySettings struct {
	kind, url, key            string
	stripeKey, publishableKey string
}

func paymentSettingsOf(r *config.Reader) paymentSettings {
	return paymentSettings{gatewaySettingsOf(r), r.CallbackURL(), r.PaymentTimeout(), r.SlotTTL(), r.SlotWarning()}
}

func gatewaySettingsOf(r *config.Reader) gatewaySettings {
	return gatewaySettings{
		kind: r.Gateway(), url: r.GatewayURL(), key: r.GatewayKey(), stripeKey: r.StripeKey(), publishableKey: r.StripePublishableKey(),
	}
}

// requireGateway records the missing settings of the gateway.
func requireGateway(r *config.Reader) {
	if r.Gateway() == config.StripeGateway {
		r.Require(config.StripeKey, config.StripePublishableKey)
		return
	}
	r.Require(config.GatewayURL)
}

// openGateway returns the client of the payment gateway. Call openWrite first.
func (p *parts) openGateway(ctx context.Context, s gatewaySettings) (gateway.Gateway, error) {
	if s.kind == config.StripeGateway {
		return p.openStripe(ctx, s)
	}
	client, err := gateway.New(gateway.Options{URL: s.url, Key: s.key, Registerer: p.registry, Logger: p.log})
	if err != nil {
		return nil, fmt.Errorf("payment gateway: %w", err)
	}
	p.onClose(func(context.Context) error { client.Close(); return nil })
	return client, nil
}

// openStripe returns the client of Stripe, and keeps it for the webhooks.
func (p *parts) openStripe(ctx context.Context, s gatewaySettings) (gateway.Gateway, error) {
	identity, err := p.storeIdentity(ctx)
	if err != nil {
		return nil, err
	}
	p.stripe, err = stripe.New(stripe.Options{
		URL: s.url, Key: s.stripeKey, PublishableKey: s.publishableKey, Store: identity.Store, Registerer: p.registry, Logger: p.log,
	})
	if err != nil {
		return nil, fmt.Errorf("payment gateway: %w", err)
	}
	p.onClose(func(context.Context) error { p.stripe.Close(); return nil })
	return p.stripe, nil
}
