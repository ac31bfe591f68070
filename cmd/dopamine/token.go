package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/config"
)

var signing = []*config.Setting{config.JWTKey, config.JWTIssuer, config.JWTAudience, config.TokenKey, config.Data}

func tokenCommand() *cli.Command {
	flags := append(settings(signing),
		&cli.StringFlag{Name: "sub", Usage: "the user's id, a UUID"},
		&cli.StringFlag{Name: "roles", Usage: auth.RolesUsage()},
		&cli.DurationFlag{Name: "ttl", Usage: "how long the token is good for", Value: time.Hour})
	return &cli.Command{
		Name:   "token",
		Usage:  "print a bearer token",
		Flags:  flags,
		Before: config.FromData,
		Action: func(_ context.Context, cmd *cli.Command) error {
			r := config.From(cmd)
			signer := signerOf(r)
			sub, err := uuid.Parse(cmd.String("sub"))
			if err != nil {
				r.RefuseFlag("sub", "is not a UUID; give one such as 3b241101-e2bb-4255-8caf-4136c566a962")
			}
			var roles auth.Roles
			for name := range strings.SplitSeq(cmd.String("roles"), ",") {
				role := auth.RoleNamed(strings.TrimSpace(name))
				if role == 0 {
					r.RefuseFlag("roles", fmt.Sprintf("has %q; give %s", name, auth.RolesUsage()))
				}
				roles |= role
			}
			ttl := cmd.Duration("ttl")
			if ttl <= 0 {
				r.RefuseFlag("ttl", "must be above 0; give a duration such as 1h")
			}
			if err := r.Err(); err != nil {
				return err
			}
			token, err := signer.Sign(sub, roles, ttl)
			if err != nil {
				return fmt.Errorf("sign the token: %w", err)
			}
			_, err = fmt.Fprintln(cmd.Root().Writer, token)
			return err
		},
	}
}

// signerOf returns the signer of tokens. Errors of its key are recorded in r.
func signerOf(r *config.Reader) *auth.Signer {
	signing := r.Signing()
	if signing.KeyFile == "" && signing.PrivateKeyFile == "" {
		return nil // refused already
	}
	signer, err := auth.NewSigner(signing)
	if err != nil {
		s := config.JWTKey
		if r.String(config.TokenKey) != "" {
			s = config.TokenKey
		}
		r.Refuse(s, err.Error())
	}
	return signer
}
