"""W3C Trace Context, without a library: https://www.w3.org/TR/trace-context/"""

import re
import secrets


def child(parent):
    """Returns the traceparent of a new span: of the trace of `parent`, or of a new trace without one."""
    match = re.fullmatch(r"00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})", parent or "")
    trace, flags = match.groups() if match else (secrets.token_hex(16), "01")
    return f"00-{trace}-{secrets.token_hex(8)}-{flags}"
