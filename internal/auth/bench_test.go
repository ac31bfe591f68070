package auth_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
)

var secret = strings.Repeat("0123456789abcdef", 4)

func write(t testing.TB, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	return file
}

// BenchmarkVerify compares Verify with golang-jwt's parser on the same token.
func BenchmarkVerify(b *testing.B) {
	file := write(b, secret)
	signer, err := auth.NewSigner(auth.SignerConfig{KeyFile: file})
	require.NoError(b, err)
	token, err := signer.Sign(uuid.New(), auth.Buyer, time.Hour)
	require.NoError(b, err)
	b.Run("ours", func(b *testing.B) {
		v, err := auth.New(context.Background(), auth.Config{KeyFile: file})
		require.NoError(b, err)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Verify(context.Background(), token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("golang-jwt", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, err := jwt.Parse(token, func(*jwt.Token) (any, error) { return []byte(secret), nil },
				jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
