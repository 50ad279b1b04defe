// Prints `partition offset value [traceparent]` of what a member gets, and commits it: consumer.ts GROUP TOPIC

import { PassThrough } from "node:stream";
import type { Channel } from "nice-grpc";
import type { RecordChunk } from "./gen/walser/v1/common.js";
import { GroupServiceDefinition } from "./gen/walser/v1/group.js";
import { clients, close, retry } from "./retry.js";
import { child } from "./traceparent.js";

const [group, topic] = process.argv.slice(2);
let requests = new PassThrough({ objectMode: true });
let resumeToken = "";
let stopping = false;

function stop() {
  stopping = true;
  requests.end(); // Nothing more to say: the member leaves, and its stream ends.
}

function handle({ topic, partition, records, nextOffset, leaderEpoch }: RecordChunk) {
  for (const { offset, value, headers } of records) {
    const parent = headers.find((header) => header.key === "traceparent");
    // The traceparent with which the work on the record goes on.
    const trace = parent ? ` ${child(parent.value?.toString())}` : "";
    console.log(`${partition} ${offset} ${value}${trace}`);
  }
  const done = { topicPartition: { topic, partition }, offset: nextOffset, leaderEpoch };
  requests.write({ message: { $case: "commit", value: { offsets: [done] } } });
}

async function consume(channel: Channel) {
  if (stopping) return;
  requests = new PassThrough({ objectMode: true });
  requests.write({ message: { $case: "join", value: { group, topics: [topic], resumeToken } } });
  for await (const { event } of clients.create(GroupServiceDefinition, channel).consume(requests)) {
    switch (event?.$case) {
      case "joined":
        resumeToken = event.value.resumeToken; // With it the member keeps its partitions.
        break;
      case "records": // What is not processed is read by whoever is next.
        if (!stopping) handle(event.value);
        break;
      case "partitionError": // Such as a commit of a partition that has moved.
        console.error(event.value.error?.message);
        break;
    }
  }
}

process.on("SIGINT", stop).on("SIGTERM", stop);
await retry(consume, () => (resumeToken = "")); // It is of no use any more: join as a new member.
close();
