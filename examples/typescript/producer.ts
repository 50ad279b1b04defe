// Writes every line of standard input to a topic, exactly once: producer.ts TOPIC

import { createInterface } from "node:readline";
import { ProducerServiceDefinition } from "./gen/walser/v1/producer.js";
import { channel, clients, retry } from "./retry.js";

const topic = process.argv[2];
const service = clients.create(ProducerServiceDefinition, channel);
const session = await retry(() => service.initProducer({}, { deadline: 10_000 }));
let records: { value: Buffer }[] = [];
let written = 0;

async function write() {
  const request = { topic, partition: 0, records, producer: session?.producer, baseSequence: written };
  await retry(() => service.produce(request, { deadline: 10_000 }));
  written += records.length;
  records = [];
}

for await (const line of createInterface({ input: process.stdin })) {
  records.push({ value: Buffer.from(line) });
  if (records.length === 100) await write();
}
if (records.length > 0) await write();
console.log(written, "records written");
channel.close();
