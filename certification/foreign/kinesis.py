"""Kinesis as a foreign service uses it: `boto3`, and `cloudevents` for the events. A record has no headers, so events are structured."""

import sys
import time

import boto3
from cloudevents.core.formats.json import JSONFormat

from events import event_of, lines, tell


def read(kinesis, stream):
    shards = kinesis.list_shards(StreamName=stream)["Shards"]
    # From the first record on, so it does not matter who of both is there first.
    start = {"StreamName": stream, "ShardIteratorType": "TRIM_HORIZON"}
    iterators = [kinesis.get_shard_iterator(ShardId=shard["ShardId"], **start)["ShardIterator"] for shard in shards]
    print("ready", flush=True)
    while True:
        for place, iterator in enumerate(iterators):
            answer = kinesis.get_records(ShardIterator=iterator)
            iterators[place] = answer["NextShardIterator"]
            for record in answer["Records"]:
                event = JSONFormat().read(None, record["Data"])
                if record["PartitionKey"] != event.get_attributes()["partitionkey"]:
                    sys.exit(f"a record under another key: {record}")
                tell("structured", event, None)
        time.sleep(0.2)


def write(kinesis, stream):
    for line in lines():
        event = event_of(line)
        key = event.get_attributes()["partitionkey"]
        kinesis.put_record(StreamName=stream, PartitionKey=key, Data=JSONFormat().write(event))
    print("done", flush=True)


def main():
    command, address, stream = sys.argv[1:]
    place, account = address.split("/")
    kinesis = boto3.client(
        "kinesis",
        endpoint_url=f"http://{place}",
        region_name="eu-west-1",
        aws_access_key_id=account,
        aws_secret_access_key="none",
    )
    {"read": read, "write": write}[command](kinesis, stream)


main()
