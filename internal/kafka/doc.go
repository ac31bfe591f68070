// Package kafka is how the product events lie in Kafka: the topic and its
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
// # Subscribing
//
// The group is used for assignment only. The place of each partition is the
// subscriber's own affair: Begin is asked for it at each assignment, and no
// offset is committed to the group. A message belongs to the session in which
// it was delivered; its context ends with the session, and with it the right
// to do anything with the message. A message that is refused (Nack) ends the
// session: the member joins again and asks for its places anew. Offsets that
// the topic does not have any more, or not yet, end the subscription instead:
// going on from anywhere else would lose events without a word.
package kafka
