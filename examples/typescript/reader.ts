// Prints `offset value` of every record of a topic, up to its end: reader.ts TOPIC [--follow]

import type { Channel } from "nice-grpc";
import { Bound, OutOfRangePolicy } from "./gen/walser/v1/common.js";
import { ConsumerServiceDefinition, type PartitionResume } from "./gen/walser/v1/consumer.js";
import { clients, close, retry } from "./retry.js";

const topic = process.argv[2];
const follow = process.argv.includes("--follow");
const end = follow ? undefined : { at: { $case: "bound", value: Bound.BOUND_LATEST } as const };
const options = { outOfRange: OutOfRangePolicy.OUT_OF_RANGE_POLICY_EARLIEST };
const resume = new Map<number, PartitionResume>(); // Store it to resume in another process.

async function read(channel: Channel) {
  const target = { topic, end, resume: [...resume.values()] };
  const service = clients.create(ConsumerServiceDefinition, channel);
  for await (const { event } of service.read({ targets: [target], options })) {
    switch (event?.$case) {
      case "chunk":
        const { partition, nextOffset, leaderEpoch, records } = event.value;
        for (const record of records) console.log(`${record.offset} ${record.value}`);
        resume.set(partition, { partition, nextOffset, leaderEpoch });
        break;
      case "offsetReset":
        console.error(event.value.skippedCount, "records are gone");
        break;
      case "partitionError": // The server continues with the other partitions.
        console.error(event.value.error?.message);
        break;
      case "drain": // The stream ends next, with the advice to reopen it.
        console.error("the server is stopping");
        break;
    }
  }
}

await retry(read); // Returns when everything that was asked for has been read.
close();
