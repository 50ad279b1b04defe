// W3C Trace Context, without a library: https://www.w3.org/TR/trace-context/

import { randomBytes } from "node:crypto";

/** Returns the traceparent of a new span: of the trace of `parent`, or of a new trace without one. */
export function child(parent = ""): string {
  const known = /^00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})$/.exec(parent);
  const [trace, flags] = known ? known.slice(1) : [randomBytes(16).toString("hex"), "01"];
  return `00-${trace}-${randomBytes(8).toString("hex")}-${flags}`;
}
