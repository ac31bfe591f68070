package main

import (
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/schemaregistry"
)

// Settings of Kafka and the schema registry by what they are for.
var (
	// kafkaSide is how to reach the brokers.
	kafkaSide = []*config.Setting{config.KafkaBrokers, config.KafkaSASL, config.KafkaUser, config.KafkaPassword,
		config.KafkaTLS, config.KafkaCA, config.KafkaCert, config.KafkaKey}
	topicName  = []*config.Setting{config.KafkaTopic}
	groupName  = []*config.Setting{config.KafkaGroup}
	topicSide  = []*config.Setting{config.KafkaPartitions, config.KafkaRetention}
	schemaSide = []*config.Setting{config.SchemaRegistryURL, config.SchemaRegistryCA, config.SchemaRegistryUser, config.SchemaRegistryPassword}
)

// kafkaSettings is what a process needs to know about Kafka.
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
