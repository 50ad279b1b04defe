"""Judges what clients have printed.

clients_judge.py producer COUNT TOPIC_FILE      every number up to COUNT is in the topic once, in order
clients_judge.py reader TOPIC_FILE FILE         a reader has printed every record of the topic, once
clients_judge.py consumer TOPIC_FILE TRACE BREAKS FILE...
                                                members have printed every record, in the trace; each of them in the
                                                order of its partition, where it goes back or ahead BREAKS times at
                                                most, and passes over nothing but what another one has printed
clients_judge.py keys VECTORS FILE              keys are in the partitions that the vectors say
clients_judge.py commits FILE                   committed offsets that were seen never went back, and reached the end

A TOPIC_FILE has a line `partition offset value` for each record."""

import collections
import json
import sys


def lines(path, columns):
    with open(path, encoding="utf-8") as file:
        return [line.rstrip("\n").split(" ", columns - 1) for line in file if line.endswith("\n")]


def records(path):
    return {(int(partition), int(offset)): value for partition, offset, value in lines(path, 3)}


def producer(count, topic):
    written = sorted(records(topic).items())
    values = collections.Counter(int(value) for _, value in written)
    sent = range(1, int(count) + 1)
    yield from (f"{number} is there {values[number]} times" for number in sent if values[number] != 1)
    yield from (f"{value} was never sent" for value in values if value not in sent)
    last = collections.Counter()
    for (partition, offset), value in written:
        if int(value) <= last[partition]:
            yield f"partition {partition}: {value} at {offset} is behind {last[partition]}"
        last[partition] = int(value)


def reader(topic, output):
    expected = collections.Counter((str(offset), value) for (_, offset), value in records(topic).items())
    seen = collections.Counter(tuple(line) for line in lines(output, 2))
    yield from (f"not read: {line}" for line in (expected - seen).elements())
    yield from (f"read too often: {line}" for line in (seen - expected).elements())


def consumer(topic, trace, breaks, *outputs):
    expected, spans = records(topic), set()
    seen = {output: {(int(place[0]), int(place[1])) for place in lines(output, 3)} for output in outputs}
    for output in outputs:
        others = set().union(*(seen[other] for other in outputs if other != output))
        jumps, last, top = collections.Counter(), {}, {}
        for number, offset, value, *traceparent in lines(output, 4):
            partition, at = place = int(number), int(offset)
            if expected.get(place) != value:
                yield f"{output}: {value} is not the record at {place}"
            if trace and (not traceparent or traceparent[0].split("-")[1] != trace or traceparent[0] in spans):
                yield f"{output}: {place} does not go on with its trace: {traceparent}"
            spans.update(traceparent)
            if at != last.get(partition, at - 1) + 1:
                jumps[partition] += 1
            passed = ((partition, skipped) for skipped in range(top.get(partition, -1) + 1, at))
            yield from (f"{output}: {skip} is passed over at {at}" for skip in passed if skip not in others)
            last[partition], top[partition] = at, max(at, top.get(partition, -1))
        yield from (f"{output}: partition {number} jumps {n} times" for number, n in jumps.items() if n > int(breaks))
    yield from (f"not processed: {place}" for place in sorted(set(expected) - set().union(*seen.values())))


def keys(vectors, output):
    with open(vectors, encoding="utf-8") as file:
        expected = {(vector["key"], str(vector["partition_of_6"])) for vector in json.load(file)}
    seen = {(key, partition) for partition, key in lines(output, 2)}
    yield from (f"missing: {place}" for place in expected - seen)
    yield from (f"elsewhere: {place}" for place in seen - expected)


def commits(output):
    committed, left = {}, {}
    decoder, text = json.JSONDecoder(), open(output, encoding="utf-8").read().strip()
    while text:
        document, end = decoder.raw_decode(text)
        text = text[end:].lstrip()
        for group in document["groups"]:
            for offset in group["offsets"]:
                place = group["name"], offset["topicPartition"]["topic"], offset["topicPartition"]["partition"]
                at = offset.get("committedOffset")
                if at is None:
                    continue
                if at < committed.get(place, 0):
                    yield f"{place} went back from {committed[place]} to {at}"
                committed[place], left[place] = at, offset.get("lag")
    if not committed:
        yield "no committed offset was seen"
    yield from (f"{place} is {lag} behind its end" for place, lag in left.items() if lag != 0)


problems = list(globals()[sys.argv[1]](*sys.argv[2:]))
for problem in problems[:20]:
    print(problem)
sys.exit(1 if problems else 0)
