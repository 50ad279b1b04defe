// Connects to a server, and handles its errors: each carries the words `retry` and `effect`, which say what to do.

import { setTimeout as sleep } from "node:timers/promises";
import { createChannel, createClientFactory, type Channel, ClientError, Status } from "nice-grpc";
import { deadlineMiddleware } from "nice-grpc-client-middleware-deadline";
import { errorDetailsClientMiddleware, RichClientError } from "nice-grpc-error-details";

const servers = (process.env.WALSER_SERVER ?? "127.0.0.1:7460").split(",");
let delay = 100; // In milliseconds: how long it waited the last time,
let paused = 0; // and when.
let channel = connect();

export const clients = createClientFactory().use(errorDetailsClientMiddleware).use(deadlineMiddleware);

/** Prepares a connection to the first server. Pings find out that its machine is gone. */
function connect(): Channel {
  return createChannel(servers[0], undefined, { "grpc.keepalive_time_ms": 20_000, "grpc.keepalive_timeout_ms": 5_000 });
}

/** Returns retry and effect of an error, and a sentence with its reason. */
function words(error: unknown): [string, string, string] {
  if (!(error instanceof ClientError)) throw error;
  // One without these words is gRPC's own. With these codes the connection broke, or the deadline passed.
  const noAnswer = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL"].includes(Status[error.code]);
  const own = { reason: Status[error.code], metadata: { retry: noAnswer ? "backoff" : "never", effect: "maybe" } };
  const details = error instanceof RichClientError ? error.extra : [];
  const { reason, metadata } = details.find((detail) => detail.$type === "google.rpc.ErrorInfo") ?? own;
  const problem = `${reason}: ${error.details} (retry=${metadata.retry}, effect=${metadata.effect})`;
  return [metadata.retry, metadata.effect, problem];
}

/** Makes a call that is safe to repeat: a read, a membership, or a write with a producer session. Without a
 * session, a write must not be repeated unless its effect is "none". `restart` redoes what comes before. */
export async function retry<T>(call: (channel: Channel) => Promise<T>, restart?: () => void) {
  for (;;) {
    try {
      return await call(channel);
    } catch (error) {
      const [advice, effect, problem] = words(error);
      if (effect === "applied") return undefined; // An earlier attempt succeeded.
      if (advice === "restart" && restart) restart();
      else if (advice !== "backoff" && advice !== "reopen") exit(problem);
      await pause(problem);
    }
  }
}

function exit(problem: string): never {
  console.error(problem);
  process.exit(1);
}

/** Waits, each time longer unless all was well for 5 s, and goes to the next server. */
async function pause(problem: string) {
  console.error("retrying:", problem);
  delay = Date.now() - paused > 5_000 ? 100 : Math.min(2 * delay, 5_000);
  await sleep(delay * (0.8 + 0.4 * Math.random()));
  channel.close();
  servers.push(servers.shift()!);
  channel = connect();
  paused = Date.now();
}

/** Lets the program end. */
export function close() {
  channel.close();
}
