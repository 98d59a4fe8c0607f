"""Kafka as a foreign service uses it: `cloudevents` and `confluent-kafka`."""

import sys

from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from confluent_kafka import Consumer, Producer, TopicPartition

from events import event_of, lines, tell


def read(address, topic):
    consumer = Consumer({"bootstrap.servers": address, "group.id": topic, "enable.auto.commit": False})
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    # From the first record on, so it does not matter who of both is there first.
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    print("ready", flush=True)
    while True:
        message = consumer.poll(60)
        if message is None or message.error():
            sys.exit(f"nothing came: {message and message.error()}")
        record = KafkaMessage(dict(message.headers() or []), message.key(), message.value())
        structured = record.headers.get("content-type", b"").startswith(b"application/cloudevents")
        tell("structured" if structured else "binary", from_kafka(record, JSONFormat()), None if structured else record.value)


def write(address, topic):
    producer = Producer({"bootstrap.servers": address, "enable.idempotence": True})
    failed = []

    def told(error, _):
        if error:
            failed.append(error)

    for line in lines():
        make = to_structured if line["mode"] == "structured" else to_binary
        record = make(event_of(line), JSONFormat())
        producer.produce(topic, record.value, record.key, headers=record.headers, on_delivery=told)
    left = producer.flush(60)
    print("done" if not failed and left == 0 else f"failed: {failed}, {left} left", flush=True)


def main():
    command, address, topic = sys.argv[1:]
    {"read": read, "write": write}[command](address, topic)


main()
