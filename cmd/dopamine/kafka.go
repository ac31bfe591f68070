package main

import (
	"context"
	"errors"
	"time"

	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/schemaregistry"
	"github.com/dopaminestore/dopamine/relay"
)

// Settings of Kafka and the schema registry, by purpose.
var (
	// kafkaSide are the settings of the connection to the brokers.
	kafkaSide = []*config.Setting{config.KafkaBrokers, config.KafkaSASL, config.KafkaUser, config.KafkaPassword,
		config.KafkaTLS, config.KafkaCA, config.KafkaCert, config.KafkaKey}
	topicName  = []*config.Setting{config.KafkaTopic}
	groupName  = []*config.Setting{config.KafkaGroup}
	topicSide  = []*config.Setting{config.KafkaPartitions, config.KafkaRetention}
	schemaSide = []*config.Setting{config.SchemaRegistryURL, config.SchemaRegistryCA, config.SchemaRegistryUser, config.SchemaRegistryPassword}
)

// kafkaSettings is a process's configuration of Kafka.
type kafkaSettings struct {
	cluster kafka.Cluster
	topic   string
	group   string // of the projectors
	wanted  kafka.TopicSettings
}

// kafkaOf reads those settings of Kafka that the command has.
func kafkaOf(r *config.Reader) kafkaSettings {
	k := kafkaSettings{cluster: r.Kafka()}
	if r.Has(config.KafkaTopic) {
		k.topic = r.KafkaTopic()
	}
	if r.Has(config.KafkaGroup) {
		k.group = r.KafkaGroup()
	}
	if r.Has(config.KafkaPartitions) {
		k.wanted = r.KafkaTopicSettings()
	}
	return k
}

// registryOf returns the schema registry, nil if none is named.
func registryOf(r *config.Reader) *schemaregistry.Client {
	address, tls := r.SchemaRegistryURL(), r.TLS(config.SchemaRegistryCA)
	user, password := r.SchemaRegistryCredentials()
	if address == "" {
		return nil
	}
	registry, err := schemaregistry.New(schemaregistry.Options{URL: address, User: user, Password: password, TLS: tls})
	if err != nil {
		r.Refuse(config.SchemaRegistryURL, err.Error())
	}
	return registry
}

// topicCheckTimeout bounds the check of the topic at startup.
const topicCheckTimeout = 10 * time.Second

// checkTopic refuses, as a wrong setting, a topic that has another partition count than configured
// or records of another event store, and credentials that the brokers refuse. If Kafka does not
// respond, it does not refuse: the process waits for it, and checks the topic again before it uses
// it.
func checkTopic(start context.Context, p *parts, k kafkaSettings) error {
	ctx, cancel := context.WithTimeout(start, topicCheckTimeout)
	defer cancel()
	info, err := kafka.DescribeTopic(ctx, k.cluster, k.topic)
	if auth := (*kafka.AuthError)(nil); errors.As(kafka.Explain(err), &auth) {
		return config.Usage("--" + config.KafkaUser.Name + " (" + config.KafkaUser.Variable() + "), --" + config.KafkaPassword.Name + ": " + auth.Error() +
			"; use a user and a password that the brokers accept for --" + config.KafkaSASL.Name + " " + k.cluster.SASL.Mechanism)
	}
	if err != nil {
		return nil
	}
	if reason := k.wanted.Mismatch(k.topic, info); reason != "" {
		return config.Usage("--" + config.KafkaPartitions.Name + " (" + config.KafkaPartitions.Variable() + "): " + reason)
	}
	own, err := p.storeIdentity(start)
	if err != nil {
		return err
	}
	foreign := (*relay.ForeignError)(nil)
	if err := relay.CheckTopic(ctx, k.cluster, k.topic, own); errors.As(err, &foreign) {
		return config.Usage("--" + config.KafkaTopic.Name + " (" + config.KafkaTopic.Variable() + "): " + foreign.Error())
	}
	return nil
}
