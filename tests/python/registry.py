"""Works with a schema registry as programs of other people do: Confluent's own Python client, its serializers, fastavro.

Usage: registry.py URL PASSWORD. Prints the records it wrote, one a line, base64. Any surprise is a failed assertion.
"""
import base64
import io
import json
import sys

import fastavro
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

url, password = sys.argv[1:]


def anew():
    """A client that has remembered nothing."""
    return SchemaRegistryClient({"url": url, "basic.auth.user.info": f"anyone:{password}"})


client = anew()


def fails(code, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except SchemaRegistryError as error:
        assert error.error_code == code, (error.error_code, code, error.error_message)
        assert password not in str(error)
    else:
        raise AssertionError(f"no error {code}")


# Nobody comes in without the password.
stranger = SchemaRegistryClient({"url": url, "basic.auth.user.info": "anyone:guess"})
fails(40101, stranger.get_subjects)

# What the project brought is there.
assert "sign_in_topic-value" in client.get_subjects()
latest = client.get_latest_version("sign_in_topic-value")
assert (latest.version, latest.schema.schema_type) == (1, "AVRO")
names = [field["name"] for field in json.loads(latest.schema.schema_str)["fields"]]
assert names == ["timestamp", "event_name", "user_id"], names

# A serializer registers a grown schema by itself; what it writes is read with the old one and with the new one.
grown = json.loads(latest.schema.schema_str)
grown["fields"].append({"name": "device", "type": ["null", "string"], "default": None})
context = SerializationContext("sign_in_topic", MessageField.VALUE)
write = AvroSerializer(client, json.dumps(grown))
events = [
    {"timestamp": f"2025-02-17T14:52:1{n}", "event_name": "sign_in", "user_id": str(n), "device": device}
    for n, device in enumerate(["phone", None, "Größe"])
]
records = [write(event, context) for event in events]
reader = anew()
version = reader.get_latest_version("sign_in_topic-value")
assert version.version == 2 and version.schema_id != latest.schema_id
assert all(int.from_bytes(record[1:5], "big") == version.schema_id for record in records)
assert [AvroDeserializer(reader)(record, context) for record in records] == events
old = AvroDeserializer(reader, latest.schema.schema_str)
assert [old(record, context) for record in records] == [
    {name: event[name] for name in names} for event in events
]
# And by a program that asks for the schema and decodes by itself.
parsed = fastavro.parse_schema(json.loads(reader.get_schema(version.schema_id).schema_str))
assert [fastavro.schemaless_reader(io.BytesIO(record[5:]), parsed) for record in records] == events

# Registering again is no new version; what does not fit is refused, with its field.
assert client.register_schema("sign_in_topic-value", Schema(json.dumps(grown), "AVRO")) == version.schema_id
assert reader.lookup_schema("sign_in_topic-value", Schema(json.dumps(grown), "AVRO")).version == 2
grown["fields"].append({"name": "must", "type": "int"})
assert not client.test_compatibility("sign_in_topic-value", Schema(json.dumps(grown), "AVRO"))
fails(409, client.register_schema, "sign_in_topic-value", Schema(json.dumps(grown), "AVRO"))
fails(42201, client.register_schema, "odd", Schema("{", "AVRO"))
fails(42201, client.register_schema, "odd", Schema('{"type": "object"}', "JSON"))

# Levels.
assert client.get_compatibility() == "BACKWARD"
client.set_compatibility("sign_in_topic-value", "FORWARD")
assert client.get_compatibility("sign_in_topic-value") == "FORWARD"
assert client.test_compatibility("sign_in_topic-value", Schema(json.dumps(grown), "AVRO"))
client.delete_config("sign_in_topic-value")
fails(40408, client.get_compatibility, "sign_in_topic-value")
fails(42203, client.set_compatibility, None, "SIDEWAYS")

# References: the deserializer fetches and resolves them.
city = '{"type": "record", "name": "City", "namespace": "geo", "fields": [{"name": "name", "type": "string"}]}'
trip = '{"type": "record", "name": "Trip", "fields": [{"name": "from", "type": "geo.City"}, {"name": "to", "type": "geo.City"}]}'
client.register_schema("city", Schema(city, "AVRO"))
uses = Schema(trip, "AVRO", [SchemaReference("geo.City", "city", 1)])
way = SerializationContext("trip", MessageField.VALUE)
journey = {"from": {"name": "Lisbon"}, "to": {"name": "Porto"}}
record = AvroSerializer(client, uses)(journey, way)
assert AvroDeserializer(reader)(record, way) == journey
assert client.get_referenced_by("city", 1) == [client.get_latest_version("trip-value").schema_id]
fails(42206, client.delete_subject, "city")

# Deleting, in two steps; an id goes on being answered after the first.
gone = client.get_latest_version("trip-value").schema_id
fails(40405, client.delete_subject, "trip-value", permanent=True)
assert client.delete_subject("trip-value") == [1]
assert "trip-value" not in client.get_subjects()
assert "trip-value" in client.get_subjects(deleted=True)
fresh = anew()
assert AvroDeserializer(fresh)(record, way) == journey
fails(40401, fresh.get_latest_version, "trip-value")
assert client.delete_subject("trip-value", permanent=True) == [1]
fails(40403, anew().get_schema, gone)
assert client.delete_subject("city") == [1]
assert client.delete_version("city", 1, permanent=True) == 1
fails(40401, client.get_versions, "city")

for record in records:
    print(base64.b64encode(record).decode())
