"""Connects to a server, and handles its errors: each carries the words `retry` and `effect`, which say what to do."""

import collections
import os
import random
import sys
import time

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

servers = collections.deque(os.environ.get("WALSER_SERVER", "127.0.0.1:7460").split(","))
delay, paused = 0.1, -60  # In seconds: how long it waited the last time, and when.


def connect():
    """Prepares a connection to the first server. Pings find out that its machine is gone."""
    pings = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 5_000)]
    return grpc.insecure_channel(servers[0], pings)


channel = connect()


def words(error):
    """Returns reason, retry and effect of an error."""
    info, status = ErrorInfo(), rpc_status.from_call(error)
    if status and any(detail.Unpack(info) for detail in status.details):
        return info.reason, info.metadata["retry"], info.metadata["effect"]
    # The error is gRPC's own. With these codes the connection broke, or the deadline passed.
    no_answer = error.code().name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL")
    return error.code().name, "backoff" if no_answer else "never", "maybe"


def retry(call, restart=None):
    """Makes a call that is safe to repeat: a read, a membership, or a write with a producer session. Without
    a session, a write must not be repeated unless its effect is "none". `restart` redoes what comes before."""
    while True:
        try:
            return call(channel)
        except grpc.RpcError as error:
            reason, advice, effect = words(error)
            if effect == "applied":
                return None  # An earlier attempt succeeded.
            problem = f"{reason}: {error.details()} (retry={advice}, effect={effect})"
            if advice == "restart" and restart:
                restart()
            elif advice not in ("backoff", "reopen"):
                sys.exit(problem)
            pause(problem)


def pause(problem):
    """Waits, each time longer unless all was well for 5 s, and goes to the next server."""
    global channel, delay, paused
    print("retrying:", problem, file=sys.stderr)
    delay = 0.1 if time.monotonic() - paused > 5 else min(2 * delay, 5)
    time.sleep(delay * random.uniform(0.8, 1.2))
    channel.close()
    servers.rotate(-1)
    channel, paused = connect(), time.monotonic()
