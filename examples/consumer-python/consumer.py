"""Reads the product events from Kafka into SQLite: every event once, in order per product.

    python consumer.py --brokers localhost:9092 --schemas ../../avsc/published --database events.db

An event and the checkpoint of its partition are written in one transaction, so a crash at any
moment neither loses nor repeats an event. Prints one line of JSON for each event, and for each
finding: a repeat, a gap, a record without a value, an incarnation. docs/consumers.md explains them.
"""

import argparse
import glob
import io
import json
import os
import sqlite3
import sys
import time
import urllib.request

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException
from fastavro.schema import fingerprint, to_parsing_canonical_form


class Schemas:
    """Decodes values: by the fingerprint in the value, or by the id that a schema registry knows."""

    def __init__(self, folder, registry):
        self.registry = registry
        self.by_id = {}
        self.by_fingerprint = {}
        for name in glob.glob(os.path.join(folder, "*.avsc")) if folder else []:
            with open(name) as file:
                schema = json.load(file)
            digest = fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")
            self.by_fingerprint[bytes.fromhex(digest)] = fastavro.parse_schema(schema)

    def decode(self, value):
        if value[:2] == b"\xc3\x01":  # single-object encoding: marker, fingerprint, data
            return self._read(value[10:], self.by_fingerprint[value[2:10]])
        if value[0] == 0:  # Confluent wire format: 0, id of the schema, data
            return self._read(value[5:], self._registered(int.from_bytes(value[1:5], "big")))
        raise ValueError("neither single-object encoding nor the Confluent wire format")

    @staticmethod
    def _read(data, schema):
        return fastavro.schemaless_reader(io.BytesIO(data), schema)

    def _registered(self, schema_id):
        if schema_id not in self.by_id:
            with urllib.request.urlopen(f"{self.registry}/schemas/ids/{schema_id}", timeout=10) as response:
                text = json.load(response)["schema"]
            self.by_id[schema_id] = fastavro.parse_schema(json.loads(text))
        return self.by_id[schema_id]


class Database:
    """The consumer's own data, with its checkpoints."""

    def __init__(self, path):
        self.connection = sqlite3.connect(path)
        with self.connection:
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS events (store, position, partition, id UNIQUE, type, product, value, PRIMARY KEY (store, position))")
            self.connection.execute("CREATE TABLE IF NOT EXISTS checkpoints (partition PRIMARY KEY, store, incarnation, position)")

    def checkpoint(self, partition):
        row = self.connection.execute("SELECT store, incarnation, position FROM checkpoints WHERE partition = ?", (partition,)).fetchone()
        return row or (None, 0, 0)

    def store(self):
        row = self.connection.execute("SELECT store FROM checkpoints LIMIT 1").fetchone()
        return row and row[0]

    def apply(self, record, value):
        with self.connection:  # the event and the checkpoint: both or neither
            self.connection.execute(
                "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?)",
                (record.store, record.position, record.partition, record.id, record.type, record.key, json.dumps(value, default=str)))
            self._move(record, record.position)

    def skip(self, record):
        with self.connection:
            self._move(record, record.position)

    def begin_incarnation(self, record):
        """What came after the shared position did not happen, as far as the shop is concerned."""
        with self.connection:
            undone = self.connection.execute(
                "DELETE FROM events WHERE partition = ? AND position > ?", (record.partition, record.position)).rowcount
            self._move(record, min(self.checkpoint(record.partition)[2], record.position))
        return undone

    def _move(self, record, position):
        self.connection.execute(
            "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?)", (record.partition, record.store, record.incarnation, position))


class Record:
    def __init__(self, message):
        headers = {name: value.decode() for name, value in message.headers() or []}
        self.partition, self.offset, self.value = message.partition(), message.offset(), message.value()
        self.key = (message.key() or b"").decode()
        self.id, self.type = headers["event-id"], headers["event-type"]
        self.position, self.previous = int(headers["position"]), int(headers["previous-position"])
        self.store, _, incarnation = headers.get("store", "").partition("/")
        self.incarnation = int(incarnation or 1)


class Reader:
    def __init__(self, database, schemas, gap_timeout):
        self.database, self.schemas, self.gap_timeout = database, schemas, gap_timeout
        self.held = {}  # partition -> records that wait for a missing one, by previous-position
        self.gap_since = {}
        self.reported = set()

    def take(self, record):
        """Handles a record; reports whether nothing of its partition is held back."""
        store, incarnation, position = self.database.checkpoint(record.partition)
        expected = self.database.store()
        if expected and record.store and record.store != expected:
            raise SystemExit(f"the topic has records of another store: {record.store}, expected {expected}")
        if record.type == "IncarnationBegan":
            if record.incarnation > incarnation:
                undone = self.database.begin_incarnation(record)
                self.held.pop(record.partition, None)
                report("incarnation", record, number=record.incarnation, undone=undone)
        elif record.incarnation < incarnation:
            report("earlier incarnation", record)  # of a relay that was cut off
        elif record.position <= position:
            report("repeat", record)
        elif record.previous > position:
            # Something is missing, or comes later in the topic. Order matters here: wait for it.
            held = self.held.setdefault(record.partition, {})
            if record.previous not in held:
                held[record.previous] = record
            self.gap_since.setdefault(record.partition, time.monotonic())
        else:
            self.apply(record)
            self.release(record.partition)
        return not self.held.get(record.partition)

    def apply(self, record):
        if record.value is None:  # could not be encoded: its headers are all there is; nothing is deleted
            self.database.skip(record)
            report("no value", record)
            return
        value = self.schemas.decode(record.value)
        self.database.apply(record, value)
        report("event", record, value=value)

    def release(self, partition):
        """Applies what waited for the record just applied."""
        held = self.held.get(partition, {})
        while True:
            position = self.database.checkpoint(partition)[2]
            following = [previous for previous in held if previous <= position]
            if not following:
                break
            record = held.pop(min(following))
            if record.position > position:
                self.apply(record)
        if not held:
            self.held.pop(partition, None)
            self.gap_since.pop(partition, None)

    def check_gaps(self):
        """Reports what is missing for too long: an operator has to look, and nothing is skipped."""
        for partition, since in self.gap_since.items():
            first = min(self.held[partition])
            if time.monotonic() - since > self.gap_timeout and (partition, first) not in self.reported:
                self.reported.add((partition, first))
                position = self.database.checkpoint(partition)[2]
                print(json.dumps({"kind": "gap", "partition": partition, "after": position, "upTo": first}), flush=True)


def report(kind, record, **more):
    print(json.dumps({"kind": kind, "partition": record.partition, "position": record.position, "type": record.type,
                      "product": record.key, **more}, default=str), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default="localhost:9092")
    parser.add_argument("--topic", default="dopamine.product-events.v1")
    parser.add_argument("--group", default="reporting")
    parser.add_argument("--schemas", help="folder of the schemas: every version that was ever written")
    parser.add_argument("--registry", help="URL of the schema registry")
    parser.add_argument("--database", default="events.db")
    parser.add_argument("--gap-timeout", type=float, default=30, help="seconds after which a missing record is reported")
    parser.add_argument("--idle", type=float, help="exit after this many seconds without a record, once there was one")
    args = parser.parse_args()

    reader = Reader(Database(args.database), Schemas(args.schemas, args.registry), args.gap_timeout)
    consumer = Consumer({
        "bootstrap.servers": args.brokers, "group.id": args.group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
        "allow.auto.create.topics": False, "topic.metadata.refresh.interval.ms": 10_000,
    })
    # What is held back was not committed: whoever gets the partition next reads it again.
    consumer.subscribe([args.topic], on_revoke=lambda *_: (reader.held.clear(), reader.gap_since.clear()))
    last = None
    try:
        while not args.idle or last is None or time.monotonic() - last < args.idle:
            message = consumer.poll(0.2)
            reader.check_gaps()
            if message is None:
                continue
            if message.error():
                if message.error().code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._PARTITION_EOF):
                    continue  # the relay creates the topic
                raise KafkaException(message.error())
            last = time.monotonic()
            if reader.take(Record(message)):
                consumer.commit(message, asynchronous=True)
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()


if __name__ == "__main__":
    sys.exit(main())
