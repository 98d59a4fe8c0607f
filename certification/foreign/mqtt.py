"""MQTT 5 as a foreign service uses it: `paho-mqtt`, and `cloudevents` for the events."""

import sys

import paho.mqtt.client as mqtt
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from dateutil.parser import isoparse
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from events import event_of, lines, tell, text

STRUCTURED = "application/cloudevents+json"


def parse(message):
    """By the MQTT binding, section 3: attributes are user properties, the content type is the property of that name."""
    attributes = dict(getattr(message.properties, "UserProperty", []))
    attributes["datacontenttype"] = message.properties.ContentType
    if "time" in attributes:
        attributes["time"] = isoparse(attributes["time"])
    return CloudEvent(attributes, JSONFormat().read_data(message.payload, attributes["datacontenttype"]))


def on_message(client, _, message):
    if message.properties.ContentType.startswith(STRUCTURED):
        tell("structured", JSONFormat().read(None, message.payload), None)
    else:
        tell("binary", parse(message), message.payload)


def read(client, topic):
    client.on_message = on_message
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.subscribe(topic, qos=1)
    client.loop_forever()


def write(client, topic):
    client.loop_start()
    for line in lines():
        event = event_of(line)
        properties = Properties(PacketTypes.PUBLISH)
        if line["mode"] == "structured":
            properties.ContentType = STRUCTURED
            payload = JSONFormat().write(event)
        else:
            attributes = dict(event.get_attributes())
            properties.ContentType = attributes.pop("datacontenttype")
            properties.UserProperty = [(name, text(value)) for name, value in attributes.items()]
            payload = JSONFormat().write_data(event.get_data(), properties.ContentType)
        client.publish(topic, payload, qos=1, properties=properties).wait_for_publish(30)
    print("done", flush=True)


def main():
    command, address, topic = sys.argv[1:]
    host, port = address.split(":")
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.connect(host, int(port))
    {"read": read, "write": write}[command](client, topic.replace(".", "/"))


main()
