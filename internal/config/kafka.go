package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/dopaminestore/dopamine/internal/kafka"
)

// KafkaBrokers returns the brokers as host:port.
func (r *Reader) KafkaBrokers() []string {
	brokers := r.List(KafkaBrokers)
	for _, b := range brokers {
		if !hostPort(b, 1) {
			r.Refuse(KafkaBrokers, "holds "+b)
		}
	}
	return brokers
}

// Kafka returns the cluster with its TLS and SASL settings. It has no brokers if --kafka-brokers is
// not given.
func (r *Reader) Kafka() kafka.Cluster {
	return kafka.Cluster{Brokers: r.KafkaBrokers(), TLS: r.kafkaTLS(), SASL: r.kafkaSASL()}
}

func (r *Reader) kafkaSASL() *kafka.SASL {
	s := kafka.SASL{Mechanism: r.String(KafkaSASL), User: r.String(KafkaUser), Password: r.String(KafkaPassword)}
	if s.Mechanism == "" {
		for setting, value := range map[*Setting]string{KafkaUser: s.User, KafkaPassword: s.Password} {
			if value != "" {
				r.Refuse(setting, "is given without --"+KafkaSASL.Name)
			}
		}
		return nil
	}
	if !slices.Contains(kafka.Mechanisms, s.Mechanism) {
		r.Refuse(KafkaSASL, fmt.Sprintf("is %q", s.Mechanism))
		return nil
	}
	if s.User == "" {
		r.Refuse(KafkaUser, "is missing, although --"+KafkaSASL.Name+" is given")
	}
	if s.Password == "" {
		r.Refuse(KafkaPassword, "is missing, although --"+KafkaSASL.Name+" is given")
	}
	return &s
}

func (r *Reader) kafkaTLS() *tls.Config {
	ca, cert, key := r.String(KafkaCA), r.String(KafkaCert), r.String(KafkaKey)
	if !r.Bool(KafkaTLS) && ca == "" && cert == "" && key == "" {
		return nil
	}
	c := r.TLS(KafkaCA)
	switch {
	case cert == "" && key != "":
		r.Refuse(KafkaKey, "is given without --"+KafkaCert.Name)
	case cert != "" && key == "":
		r.Refuse(KafkaCert, "is given without --"+KafkaKey.Name)
	case cert != "":
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			r.Refuse(KafkaCert, "with --"+KafkaKey.Name+" cannot be used: "+err.Error())
			break
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// TLS returns a client configuration that verifies servers with the certificates in the file that
// the setting names, or with the system's if the setting is empty.
func (r *Reader) TLS(ca *Setting) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	name := r.String(ca)
	if name == "" {
		return c
	}
	pem, err := os.ReadFile(name)
	if err != nil {
		r.Refuse(ca, "cannot be read: "+err.Error())
		return c
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		r.Refuse(ca, fmt.Sprintf("names %s, which has no certificate in PEM", name))
	}
	return c
}

// kafkaName matches the names that Kafka accepts for topics.
var kafkaName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`)

// KafkaTopic returns the name of the topic.
func (r *Reader) KafkaTopic() string { return r.kafkaName(KafkaTopic) }

// KafkaGroup returns the name of the projectors' consumer group.
func (r *Reader) KafkaGroup() string { return r.kafkaName(KafkaGroup) }

func (r *Reader) kafkaName(s *Setting) string {
	name := r.String(s)
	if !kafkaName.MatchString(name) || name == "." || name == ".." {
		r.Refuse(s, fmt.Sprintf("is %q", name))
	}
	return name
}

// KafkaTopicSettings returns the partition count and the retention of the topic; a
// retention of 0 means forever.
func (r *Reader) KafkaTopicSettings() kafka.TopicSettings {
	var s kafka.TopicSettings
	if r.String(KafkaRetention) != KafkaRetention.Default {
		s.Retention = r.Duration(KafkaRetention, time.Second)
	}
	s.Partitions = int32(r.Int(KafkaPartitions, 1, maxPartitions))
	return s
}

// SchemaRegistryCredentials returns user and password for the schema registry, empty if
// they are not given.
func (r *Reader) SchemaRegistryCredentials() (user, password string) {
	user, password = r.String(SchemaRegistryUser), r.String(SchemaRegistryPassword)
	switch {
	case user == "" && password != "":
		r.Refuse(SchemaRegistryPassword, "is given without --"+SchemaRegistryUser.Name)
	case user != "" && password == "":
		r.Refuse(SchemaRegistryUser, "is given without --"+SchemaRegistryPassword.Name)
	}
	return user, password
}
