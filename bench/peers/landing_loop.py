"""What people write in Python: confluent-kafka, fastavro and deltalake, 100,000 records a commit, offsets in the table.

Arguments: broker, topic, table folder, number of records. At least once; no dead letters, no evolution.
"""
import io
import json
import sys

import fastavro
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition
from deltalake import write_deltalake

SCHEMA = fastavro.parse_schema({"type": "record", "name": "Event", "fields": [
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "event_name", "type": "string"}, {"name": "user_id", "type": "string"}, {"name": "session", "type": "long"},
    {"name": "item_id", "type": ["null", "string"]}, {"name": "country", "type": "string"},
    {"name": "quantity", "type": "int"}, {"name": "price", "type": "double"}, {"name": "paid", "type": "boolean"},
    {"name": "referrer", "type": ["null", "string"]},
]})

broker, topic, table, wanted = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
consumer = Consumer({
    "bootstrap.servers": broker, "group.id": "peer", "enable.auto.commit": False, "auto.offset.reset": "earliest",
    "fetch.queue.backoff.ms": 10, "queued.min.messages": 1_000_000,
})
partitions = consumer.list_topics(topic, 10).topics[topic].partitions
consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
taken = 0
while taken < wanted:
    rows = []
    while len(rows) < min(100_000, wanted - taken):
        for message in consumer.consume(10_000, 1.0):
            row = fastavro.schemaless_reader(io.BytesIO(message.value()[5:]), SCHEMA, SCHEMA)
            row["_partition"], row["_offset"] = message.partition(), message.offset()
            rows.append(row)
    taken += len(rows)
    write_deltalake(table, pa.Table.from_pylist(rows), mode="append")
print(json.dumps({"rows": taken}))
