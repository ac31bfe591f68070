// Package kafka is how the product events are kept in Kafka: the topic and its
// settings, the partition of a key, the headers of a record, and a publisher
// and a subscriber for batches.
//
// Both implement Watermill's interfaces and use watermill-kafka's marshaler,
// over sarama. They exist because watermill-kafka's own publisher sends one
// message and waits, and its subscriber hands out one message of a partition
// at a time: with batches they are thirty to forty, and ten to nearly three
// hundred times as slow.
//
// # Publishing
//
// Publish sends what it is given as one batch and returns when Kafka has
// acknowledged all of it, by all in-sync replicas, or when something failed.
// sarama may fail one message of a batch and deliver a later one, also of the
// same partition; who needs order sends the whole batch again before anything
// else.
//
// # Connecting
//
// Cluster holds the brokers, TLS and SASL (PLAIN, SCRAM) of every client. No client
// lets a broker create a topic. Pinger is the health check: a request over an
// authenticated connection that it keeps.
//
// # Subscribing
//
// The group is used for assignment only. The checkpoint of each partition is the
// subscriber's own affair: Begin gets the offsets that each partition has and returns
// where to start, and no offset is committed to the group. If Begin fails, the
// subscription ends and the member leaves the group at once, so that others get its
// partitions. A message belongs to the session in which it was delivered; its context
// ends with the session, and with it the right to do anything with the message. A
// message that is refused (Nack) ends the session: the member joins again.
package kafka
