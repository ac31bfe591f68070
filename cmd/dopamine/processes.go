package main

import (
	"context"

	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// Settings, by purpose.
var (
	writeSide = []*config.Setting{config.DatabaseURL, config.DatabaseDirectURL, config.DatabasePool, config.DatabasePoolMax}
	readSide  = []*config.Setting{config.ReadDatabaseURL}
	redisSide = append(redisAddress, config.RedisPool, config.RedisPoolMax)
	// redisAddress is for processes that have no gate.
	redisAddress = []*config.Setting{config.RedisURL, config.RedisCA, config.RedisKeyPrefix}
	tokenSide    = []*config.Setting{config.JWTKey, config.JWKSURL, config.JWTIssuer, config.JWTAudience, config.JWTRolesClaim, config.JWTDefaultRoles}
	serverSide   = []*config.Setting{config.BuyerRate, config.AnonymousRate, config.TrustedProxies, config.MaxConnections,
		config.MaxConnectionsPerAddress, config.DrainDelay, config.CORSOrigins}
	queueSide = []*config.Setting{config.AppendQueue}
	// paymentSide are the settings for payments of the command API and the worker. The callback's
	// URL is derived from the command API's address.
	paymentSide = []*config.Setting{config.Gateway, config.GatewayURL, config.GatewayKey, config.StripeKey, config.StripePublishableKey, config.CallbackURL, config.CommandAddr, config.PaymentTimeout, config.SlotTTL, config.SlotWarning}
)

func settings(groups ...[]*config.Setting) []cli.Flag {
	var all []*config.Setting
	for _, g := range groups {
		all = append(all, g...)
	}
	return config.Flags(all...)
}

// untilStopped runs one long-lived process: build creates its services from the settings, and they are
// served until the context ends.
func untilStopped(build func(ctx context.Context, p *parts, r *config.Reader) ([]service, error)) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) error {
		r := config.From(cmd)
		p, err := newParts(ctx, cmd, r, cmd.Root().ErrWriter)
		if err != nil {
			return err
		}
		defer p.close()
		services, err := build(ctx, p, r)
		if err != nil {
			return unlessStopped(ctx, err)
		}
		return serve(ctx, shutdownLimitWith(p.drain), func() { p.log.Info("ready", "process", cmd.Name) }, services)
	}
}

// opsService serves health and metrics of a process without an API, if an address is given for
// them.
func opsService(p *parts, r *config.Reader, checks ...httpapi.Check) []service {
	addr := r.OptionalAddr(config.MetricsAddr)
	if addr == "" {
		return nil
	}
	server := httpapi.New(httpapi.Options{Addr: addr, Registry: p.registry, Logger: p.log, Checks: checks})
	return []service{{name: "metrics", run: server.Run, ready: server.Ready()}}
}
