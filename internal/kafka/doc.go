// Package kafka defines how the product events are kept in Kafka: the topic and its settings, the
// partition of a key, the headers of a record. It has a publisher and a subscriber for batches.
//
// Both implement Watermill's interfaces and use watermill-kafka's marshaler, over sarama.
// watermill-kafka's own publisher sends one message and waits, and its subscriber delivers one
// message of a partition at a time. With batches, publishing is thirty to forty times, and
// subscribing ten to nearly three hundred times as fast.
//
// # Publishing
//
// Publish sends its messages as one batch and returns when all in-sync replicas have acknowledged
// all of them, or when something failed. sarama may fail one message of a batch and deliver a later
// one, also of the same partition. If order matters, the caller resends the whole batch before
// anything else.
//
// # Connecting
//
// Cluster has the brokers, TLS and SASL (PLAIN, SCRAM) for every client. No client causes a broker
// to create a topic. Pinger is the health check: a request over a persistent, authenticated
// connection.
//
// # Subscribing
//
// The group is used for assignment only. The subscriber's owner keeps the checkpoint of each
// partition: Begin receives the offsets that each partition has and returns where to start, and no
// offset is committed to the group. If Begin fails, the subscription ends and the member leaves the
// group immediately, so that others get its partitions. A message belongs to the session in which
// it was delivered. Its context ends with the session; after that the message must not be
// processed. A message that is refused (Nack) ends the session, and the member rejoins.
package kafka
