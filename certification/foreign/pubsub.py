"""Google Pub/Sub as a foreign service uses it: `google-cloud-pubsub`, and `cloudevents` for the events."""

import os
import sys

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from dateutil.parser import isoparse
from google.cloud import pubsub_v1

from events import event_of, lines, tell, text

STRUCTURED = "application/cloudevents+json"


def parse(message):
    """By the Pub/Sub binding: attributes are those with the prefix `ce-`, the content type is the one of that name."""
    attributes = {name.removeprefix("ce-"): value for name, value in message.attributes.items() if name.startswith("ce-")}
    attributes["datacontenttype"] = message.attributes["content-type"]
    if "time" in attributes:
        attributes["time"] = isoparse(attributes["time"])
    if message.ordering_key != attributes["partitionkey"]:
        sys.exit(f"a message under another key: {message}")
    return CloudEvent(attributes, JSONFormat().read_data(message.data, attributes["datacontenttype"]))


def came(message):
    if message.attributes["content-type"].startswith(STRUCTURED):
        tell("structured", JSONFormat().read(None, message.data), None)
    else:
        tell("binary", parse(message), message.data)
    message.ack()


def read(topic):
    subscriber = pubsub_v1.SubscriberClient()
    name = topic.replace("/topics/", "/subscriptions/") + ".foreign"
    subscriber.create_subscription(request={"name": name, "topic": topic, "enable_message_ordering": True})
    print("ready", flush=True)
    subscriber.subscribe(name, callback=came).result()


def write(topic):
    publisher = pubsub_v1.PublisherClient(publisher_options=pubsub_v1.types.PublisherOptions(enable_message_ordering=True))
    for line in lines():
        event = event_of(line)
        attributes = dict(event.get_attributes())
        key = attributes["partitionkey"]
        if line["mode"] == "structured":
            sent = publisher.publish(topic, JSONFormat().write(event), ordering_key=key, **{"content-type": STRUCTURED})
        else:
            content_type = attributes.pop("datacontenttype")
            payload = JSONFormat().write_data(event.get_data(), content_type)
            payload = payload.encode() if isinstance(payload, str) else payload
            named = {f"ce-{name}": text(value) for name, value in attributes.items()}
            sent = publisher.publish(topic, payload, ordering_key=key, **{"content-type": content_type}, **named)
        sent.result(30)
    print("done", flush=True)


def main():
    command, address, topic = sys.argv[1:]
    # The library then asks for no credentials.
    os.environ["PUBSUB_EMULATOR_HOST"] = address
    {"read": read, "write": write}[command](topic)


main()
