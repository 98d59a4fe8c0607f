"""Events as lines of JSON, and as the CloudEvents library has them."""

import base64
import json
import sys
from datetime import datetime

from cloudevents.core.v1.event import CloudEvent
from dateutil.parser import isoparse


def text(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def is_json(content_type):
    return content_type is None or content_type == "application/json"


def event_of(line):
    """The library's event of a line."""
    attributes = dict(line["attributes"])
    if "time" in attributes:
        attributes["time"] = isoparse(attributes["time"])
    payload = base64.b64decode(line["payload"])
    content_type = attributes.get("datacontenttype")
    if is_json(content_type):
        data = json.loads(payload)
    elif content_type.startswith("text/"):
        data = payload.decode()
    else:
        data = payload
    return CloudEvent(attributes, data)


def tell(mode, event, payload):
    """Prints what the library has read; `payload` is what the message carried, where that is the payload alone."""
    attributes = {name: text(value) for name, value in event.get_attributes().items()}
    data = event.get_data()
    line = {"mode": mode, "attributes": attributes}
    if isinstance(data, (bytes, bytearray)):
        line["payload"] = base64.b64encode(data).decode()
    elif isinstance(data, str) and not is_json(attributes.get("datacontenttype")):
        line["payload"] = base64.b64encode(data.encode()).decode()
    else:
        line["data"] = data
        if payload is not None:
            line["payload"] = base64.b64encode(payload).decode()
    print(json.dumps(line), flush=True)


def lines():
    return [json.loads(line) for line in sys.stdin if line.strip()]
