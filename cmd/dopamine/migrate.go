package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/postgres"
)

func migrateCommand() *cli.Command {
	return &cli.Command{
		Name:  "migrate",
		Usage: "create or update the schemas of the write side and the read side",
		Flags: append(settings([]*config.Setting{config.DatabaseURL, config.DatabaseDirectURL}, readSide, observed),
			&cli.BoolFlag{Name: "create-database", Usage: "create the databases that the URLs name if they do not exist"}),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			r := config.From(cmd)
			r.Require(config.DatabaseURL)
			write, read := r.DatabaseDirectURL(), directReadURL(r)
			p, err := newParts(ctx, cmd, r, cmd.Root().ErrWriter)
			if err != nil {
				return err
			}
			defer p.close()
			if cmd.Bool("create-database") {
				if err := createDatabases(ctx, write, read); err != nil {
					return err
				}
			}
			if err := requireDirect(ctx, r, write, read); err != nil {
				return err
			}
			err = migrate(ctx, write, read)
			if errors.Is(err, db.ErrNoDatabase) {
				return fmt.Errorf("%w, or use --create-database to create it", err)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.Root().Writer, "both schemas are up to date")
			return err
		},
	}
}

// directReadURL returns the read side's Postgres for uses that need server connections without a
// pooler.
func directReadURL(r *config.Reader) string {
	if r.String(config.ReadDatabaseURL) != "" {
		return r.ReadDatabaseURL()
	}
	return r.DatabaseDirectURL()
}

// readDirectSetting returns the setting for a direct address of the read side.
func readDirectSetting(r *config.Reader) *config.Setting {
	if r.String(config.ReadDatabaseURL) != "" {
		return config.ReadDatabaseURL
	}
	return config.DatabaseDirectURL
}

// requireDirect refuses a write side or a read side behind a pooler in transaction mode. A database
// that does not exist yet is not checked.
func requireDirect(ctx context.Context, r *config.Reader, write, read string) error {
	for url, s := range map[string]*config.Setting{write: config.DatabaseDirectURL, read: readDirectSetting(r)} {
		cfg, err := pgxpool.ParseConfig(url)
		if err != nil {
			return fmt.Errorf("database URL: %w", err)
		}
		cfg.ConnConfig.ConnectTimeout = connectTimeout
		if pooling, err := postgres.Detect(ctx, cfg.ConnConfig); err == nil && pooling == postgres.Transaction {
			return directNeeded(s)
		}
	}
	return nil
}

func createDatabases(ctx context.Context, urls ...string) error {
	for _, url := range urls {
		if err := db.CreateDatabase(ctx, url); err != nil {
			return err
		}
	}
	return nil
}

func migrate(ctx context.Context, write, read string) error {
	if err := db.MigrateWrite(ctx, write); err != nil {
		return err
	}
	return db.MigrateRead(ctx, read)
}
