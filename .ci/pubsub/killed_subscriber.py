"""Kills a subscriber of Google's own client and prints what the next one gets.

For an emulator: `PUBSUB_EMULATOR_HOST=127.0.0.1:8085 python killed_subscriber.py [seconds]`, with `google-cloud-pubsub` from PyPI. A service
that notices the death hands everything to the second subscriber within the lease of 10 s.
"""

import subprocess
import sys
import threading
import time
import uuid

from google.cloud import pubsub_v1

PROJECT, COUNT = "msgkit", 60


def subscribe(path):
    def handle(message):
        print(message.data.decode(), flush=True)
        time.sleep(0.05)
        message.ack()

    flow = pubsub_v1.types.FlowControl(max_messages=10)
    pubsub_v1.SubscriberClient().subscribe(path, handle, flow_control=flow).result()


def main(seconds):
    name = "killed-" + uuid.uuid4().hex[:8]
    publisher, subscriber = pubsub_v1.PublisherClient(), pubsub_v1.SubscriberClient()
    topic, path = publisher.topic_path(PROJECT, name), subscriber.subscription_path(PROJECT, name)
    publisher.create_topic(request={"name": topic})
    subscriber.create_subscription(request={"name": path, "topic": topic, "ack_deadline_seconds": 10})
    got = set()

    def start():
        child = subprocess.Popen([sys.executable, __file__, "subscribe", path], stdout=subprocess.PIPE, text=True)
        threading.Thread(target=lambda: got.update(int(line) for line in child.stdout), daemon=True).start()
        time.sleep(4)
        return child

    def publish(numbers):
        for n in numbers:
            publisher.publish(topic, str(n).encode()).result()
            time.sleep(0.02)

    first = start()
    publish(range(COUNT // 3))
    first.kill()
    first.wait()
    publish(range(COUNT // 3, COUNT * 2 // 3))
    second = start()
    publish(range(COUNT * 2 // 3, COUNT))
    began = time.time()
    while len(got) < COUNT and time.time() - began < seconds:
        time.sleep(10)
        print(f"after {time.time() - began:.0f} s: {len(got)} of {COUNT}", flush=True)
    second.kill()
    print("missing:", sorted(set(range(COUNT)) - got))


if sys.argv[1:2] == ["subscribe"]:
    subscribe(sys.argv[2])
else:
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
