"""Error handling of a client: every error carries the words `retry` and `effect`, which say what to do."""

import sys
import time

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status


def words(error):
    """Returns reason, retry and effect of an error."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = ErrorInfo()
        if detail.Unpack(info):
            return info.reason, info.metadata["retry"], info.metadata["effect"]
    # The error is gRPC's own. With these codes the connection broke, or the deadline passed.
    no_answer = error.code().name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL")
    return error.code().name, "backoff" if no_answer else "never", "maybe"


def retry(call):
    """Makes a call that is safe to repeat: a read, or a write with a producer session. Without
    a session, a write must not be repeated unless its effect is "none"."""
    delay = 0.1
    while True:
        started = time.monotonic()
        try:
            return call()
        except grpc.RpcError as error:
            reason, advice, effect = words(error)
            if effect == "applied":
                return None  # An earlier attempt succeeded.
            problem = f"{reason}: {error.details()} (retry={advice}, effect={effect})"
            if advice not in ("backoff", "reopen"):
                sys.exit(problem)
            print("retrying:", problem, file=sys.stderr)
            delay = 0.1 if time.monotonic() - started > 5 else min(2 * delay, 5)
            time.sleep(delay)
