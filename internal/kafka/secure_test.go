package kafka

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// authority is the test's own certificate authority.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate in PEM
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key, a.file = a.issue("ca", nil)
	return a
}

// issue creates a certificate for 127.0.0.1, signed by the authority; the authority's own is
// self-signed. The file has the private key and the certificate.
func (a *authority) issue(name string, parent *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey, string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	require.NoError(a.t, err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true, IsCA: parent == nil,
	}
	signer, by := key, template
	if parent != nil {
		signer, by = a.key, parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), signer)
	require.NoError(a.t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(a.t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(a.t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if parent != nil {
		text = append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), text...)
	}
	file := filepath.Join(a.dir, name+".pem")
	require.NoError(a.t, os.WriteFile(file, text, 0o600))
	return cert, key, file
}

func (a *authority) client(certificate string) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	c := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if certificate != "" {
		pair, err := tls.LoadX509KeyPair(certificate, certificate)
		require.NoError(a.t, err)
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// roundTrip creates a topic, publishes and consumes over the cluster.
func roundTrip(t *testing.T, cluster Cluster) {
	t.Helper()
	topic := testkit.Topic(t)
	pub := publisher(t, cluster, topic)
	m := event(uuid.New(), 1, 0)
	require.NoError(t, pub.Publish(topic, m))
	_, out := start(t, cluster, topic, topic, 0, func(_ *Session, ps []int32) map[int32]int64 { return zeros(ps) })
	got := next(t, out)
	got.Ack()
	require.Equal(t, m.UUID, got.UUID)
	read := 0
	require.NoError(t, ReadTopic(t.Context(), cluster, topic, func(_ context.Context, _ int32, records func(func(Record) bool)) error {
		records(func(Record) bool { read++; return true })
		return nil
	}))
	require.Equal(t, 1, read)
	pinger := NewPinger(cluster)
	require.NoError(t, pinger.Ping(t.Context()))
	require.NoError(t, pinger.Ping(t.Context()), "over the same connection")
	require.NoError(t, pinger.Close())
}

func TestCluster_AuthenticatesWithRealListeners(t *testing.T) {
	const user, password = "shop", "a secret"
	ca := newAuthority(t)
	_, _, server := ca.issue("broker", ca.cert)
	_, _, client := ca.issue("shop", ca.cert)
	var ports [3]int
	for i := range ports {
		var err error
		ports[i], err = devservices.FreePort()
		require.NoError(t, err)
	}
	addr := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i])) }
	listeners := "SASL_PLAINTEXT://" + addr(0) + ",SASL_SSL://" + addr(1) + ",SSL://" + addr(2)
	properties := []string{
		"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}," + listeners,
		"advertised.listeners=PLAINTEXT://127.0.0.1:{port}," + listeners,
		"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
		"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"ssl.keystore.type=PEM", "ssl.keystore.location=" + server,
		"ssl.truststore.type=PEM", "ssl.truststore.location=" + ca.file,
		"listener.name.ssl.ssl.client.auth=required",
		"auto.create.topics.enable=true", // which none of the clients uses
	}
	for _, l := range []string{"sasl_plaintext", "sasl_ssl"} {
		properties = append(properties, "listener.name."+l+`.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="b" password="b" user_`+user+`="`+password+`";`)
		for _, m := range []string{"scram-sha-256", "scram-sha-512"} {
			properties = append(properties, "listener.name."+l+"."+m+".sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;")
		}
	}
	broker := testkit.OwnKafkaWith(t, properties...)
	plain, err := kgo.NewClient(kgo.SeedBrokers(broker.Brokers()...))
	require.NoError(t, err)
	defer plain.Close()
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		altered, err := kadm.NewClient(plain).AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: user, Mechanism: m, Iterations: 4096, Password: password}})
		require.NoError(t, err)
		require.NoError(t, altered.Error())
	}

	for _, mechanism := range Mechanisms {
		for name, c := range map[string]Cluster{
			"plaintext": {Brokers: []string{addr(0)}},
			"TLS":       {Brokers: []string{addr(1)}, TLS: ca.client("")},
		} {
			t.Run(mechanism+" over "+name, func(t *testing.T) {
				c.SASL = &SASL{mechanism, user, password}
				roundTrip(t, c)
				c.SASL = &SASL{mechanism, user, "another secret"}
				var refused *AuthError
				require.ErrorAs(t, NewPinger(c).Ping(t.Context()), &refused)
				_, err := DescribeTopic(t.Context(), c, "any")
				require.ErrorAs(t, Explain(err), &refused)
			})
		}
	}
	t.Run("client certificate", func(t *testing.T) {
		roundTrip(t, Cluster{Brokers: []string{addr(2)}, TLS: ca.client(client)})
		require.Error(t, NewPinger(Cluster{Brokers: []string{addr(2)}, TLS: ca.client("")}).Ping(t.Context()), "without one")
	})
	t.Run("no authentication", func(t *testing.T) {
		for i := range ports { // each accepts the connection
			require.Error(t, NewPinger(Cluster{Brokers: []string{addr(i)}}).Ping(t.Context()))
		}
		require.Error(t, NewPinger(Cluster{Brokers: []string{addr(1)}, TLS: &tls.Config{MinVersion: tls.VersionTLS12}}).Ping(t.Context()), "an authority that is not trusted")
	})
	t.Run("no topic by the broker", func(t *testing.T) {
		c, topic := Cluster{Brokers: broker.Brokers()}, testkit.Topic(t)
		require.Error(t, ReadTopic(t.Context(), c, topic, func(context.Context, int32, func(func(Record) bool)) error { return nil }))
		_, err := DescribeTopic(t.Context(), c, topic)
		require.ErrorIs(t, err, ErrNoTopic)
		pub, err := NewPublisher(c, 1)
		require.NoError(t, err)
		published := make(chan error, 1)
		go func() { published <- pub.Publish(topic, event(uuid.New(), 1, 0)) }()
		select {
		case err := <-published:
			require.Error(t, err)
		case <-time.After(2 * time.Second):
		}
		_, err = DescribeTopic(t.Context(), c, topic)
		require.ErrorIs(t, err, ErrNoTopic)
		_, err = EnsureTopic(t.Context(), c, topic, TopicSettings{Partitions: 1})
		require.NoError(t, err)
		require.NoError(t, errors.Join(pub.Close(), nil))
	})
}
