"""RabbitMQ as a foreign service uses it: `cloudevents` and `pika`."""

import sys

import pika
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.formats.json import JSONFormat

from events import event_of, lines, tell

EXCHANGE = "msgkit"


def parse(properties, body):
    """By the binding whose header names the message has."""
    headers = properties.headers or {}
    content_type = properties.content_type or ""
    if any(name.startswith("ce-") for name in headers):
        message = rabbitmq.RabbitMQMessage(headers, properties.content_type, body)
        return rabbitmq.from_rabbitmq(message, JSONFormat())
    return amqp.from_amqp(amqp.AMQPMessage({"content-type": content_type}, headers, body), JSONFormat())


def read(channel, topic):
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, EXCHANGE, topic)
    print("ready", flush=True)
    for _, properties, body in channel.consume(queue, auto_ack=True):
        structured = (properties.content_type or "").startswith("application/cloudevents")
        tell("structured" if structured else "binary", parse(properties, body), None if structured else body)


def write(channel, topic):
    channel.confirm_delivery()
    for line in lines():
        event, binding = event_of(line), line.get("binding")
        if binding == "rabbitmq":
            make = rabbitmq.to_structured if line["mode"] == "structured" else rabbitmq.to_binary
            message = make(event, JSONFormat())
            content_type, headers, body = message.content_type, message.headers, message.body
        else:
            make = amqp.to_structured if line["mode"] == "structured" else amqp.to_binary
            message = make(event, JSONFormat())
            content_type = message.properties["content-type"]
            headers, body = message.application_properties, message.application_data
        properties = pika.BasicProperties(content_type=content_type, headers=headers)
        channel.basic_publish(EXCHANGE, topic, body, properties, mandatory=True)
    print("done", flush=True)


def main():
    command, address, topic = sys.argv[1:]
    connection = pika.BlockingConnection(pika.URLParameters(f"amqp://guest:guest@{address}"))
    {"read": read, "write": write}[command](connection.channel(), topic)


main()
