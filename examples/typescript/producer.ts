// Writes every line of standard input to a topic, exactly once: producer.ts TOPIC [--keyed]
//
// With --keyed a line is KEY:VALUE, and its key says to which partition it goes; else it goes to partition 0.

import { createInterface } from "node:readline";
import { type Channel, Metadata } from "nice-grpc";
import { ProducerServiceDefinition } from "./gen/walser/v1/producer.js";
import { TopicServiceDefinition } from "./gen/walser/v1/topic.js";
import { partition } from "./partition.js";
import { clients, close, retry } from "./retry.js";
import { child } from "./traceparent.js";

const topic = process.argv[2];
const keyed = process.argv.includes("--keyed");
const deadline = 10_000;
let count = 1;
if (keyed) {
  const get = { name: topic };
  const found = await retry((channel) => clients.create(TopicServiceDefinition, channel).getTopic(get, { deadline }));
  count = found!.topic!.partitionCount;
}
const init = (channel: Channel) => clients.create(ProducerServiceDefinition, channel).initProducer({}, { deadline });
const session = await retry(init);
const batches = new Map<number, { key?: Buffer; value: Buffer }[]>(); // The next one of each partition.
const sequences = new Map<number, number>(); // By partition: records that are written.

async function write(number: number) {
  const baseSequence = sequences.get(number) ?? 0;
  const records = batches.get(number)!;
  const request = { topic, partition: number, records, producer: session?.producer, baseSequence };
  // Its records get this header, so that who reads them goes on with the trace.
  const metadata = Metadata({ traceparent: child(process.env.TRACEPARENT) });
  await retry((channel) => clients.create(ProducerServiceDefinition, channel).produce(request, { deadline, metadata }));
  sequences.set(number, baseSequence + records.length);
  batches.delete(number);
}

for await (const line of createInterface({ input: process.stdin })) {
  const at = keyed ? line.indexOf(":") : -1;
  const key = at < 0 ? undefined : Buffer.from(line.slice(0, at));
  const number = partition(key ?? Buffer.alloc(0), count);
  const batch = batches.get(number) ?? [];
  batches.set(number, batch);
  if (batch.push({ key, value: Buffer.from(line.slice(at + 1)) }) === 100) await write(number);
}
for (const number of batches.keys()) await write(number);
console.log([...sequences.values()].reduce((sum, written) => sum + written, 0), "records written");
close();
