// Error handling of a client: every error carries the words `retry` and `effect`, which say what to do.

import { setTimeout as sleep } from "node:timers/promises";
import { createChannel, createClientFactory, ClientError, Status } from "nice-grpc";
import { deadlineMiddleware } from "nice-grpc-client-middleware-deadline";
import { errorDetailsClientMiddleware, RichClientError } from "nice-grpc-error-details";

export const channel = createChannel(process.env.WALSER_SERVER ?? "127.0.0.1:7460");
export const clients = createClientFactory().use(errorDetailsClientMiddleware).use(deadlineMiddleware);

/** Returns reason, retry and effect of an error. */
function words(error: ClientError): [string, string, string] {
  const details = error instanceof RichClientError ? error.extra : [];
  const info = details.find((detail) => detail.$type === "google.rpc.ErrorInfo");
  if (info) return [info.reason, info.metadata.retry, info.metadata.effect];
  // The error is gRPC's own. With these codes the connection broke, or the deadline passed.
  const code = Status[error.code];
  const noAnswer = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL"].includes(code);
  return [code, noAnswer ? "backoff" : "never", "maybe"];
}

/** Makes a call that is safe to repeat: a read, or a write with a producer session. Without a
 * session, a write must not be repeated unless its effect is "none". */
export async function retry<T>(call: () => Promise<T>): Promise<T | undefined> {
  for (let delay = 100; ; delay = Math.min(2 * delay, 5000)) {
    const started = Date.now();
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      const [reason, advice, effect] = words(error);
      if (effect === "applied") return undefined; // An earlier attempt succeeded.
      const problem = `${reason}: ${error.details} (retry=${advice}, effect=${effect})`;
      if (advice !== "backoff" && advice !== "reopen") {
        console.error(problem);
        process.exit(1);
      }
      console.error("retrying:", problem);
      if (Date.now() - started > 10_000) delay = 100;
      await sleep(delay);
    }
  }
}
