"""Draws docs/pictures/trace.svg: the trace of one record, from the producer through the cluster to the consumer, as the
processes of a real cluster tell it to a collector, which is this program. Run by `make trace-picture`."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures
from html import escape

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc

TOPIC = "orders"
PATIENCE_S = 60
# Kinds of spans in the protocol, and the colours in which they are drawn.
COLOURS = {4: ("producer", "#2f6fdb"), 2: ("server", "#8a6fd1"), 1: ("internal", "#2e9d78"), 5: ("consumer", "#d9822b")}
# Processes export every 5 s: after this long nothing more comes.
QUIET_S = 7

WIDTH, NAMES_WIDTH, ROW, TOP, MARGIN = 980, 430, 30, 64, 16


class Collector(otlp_grpc.TraceServiceServicer):
    """Keeps every span that it is told, with the service that tells it."""

    def __init__(self):
        self.spans, self.news = [], threading.Condition()

    def Export(self, request, _context):
        with self.news:
            for resource in request.resource_spans:
                texts = {a.key: a.value.string_value for a in resource.resource.attributes}
                spans = [span for scope in resource.scope_spans for span in scope.spans]
                self.spans += [(texts["service.name"], span) for span in spans]
            self.news.notify_all()
        return otlp.ExportTraceServiceResponse()

    def record_trace(self):
        """The spans of the trace of the record with the consumer's span, once all of them are there; else None."""
        send = [span for _, span in self.spans if span.name == f"send {TOPIC}"]
        linked = lambda span: any(link.trace_id == send[0].trace_id for link in span.links)
        process = [told for told in self.spans if send and told[1].name == f"process {TOPIC}" and linked(told[1])]
        trace = [told for told in self.spans if send and told[1].trace_id == send[0].trace_id]
        copies = [told for told in trace if told[1].name == f"replicate {TOPIC}"]
        parents = {span.span_id for _, span in trace}
        whole = all(span.parent_span_id in parents for _, span in trace if span is not send[0])
        return trace + process[:1] if process and len(copies) == 2 and whole else None

    def wait(self):
        with self.news:
            if not self.news.wait_for(self.record_trace, PATIENCE_S):
                told = sorted({f"{service}: {span.name}" for service, span in self.spans})
                sys.exit(f"the trace is not whole after {PATIENCE_S} s; told were {told}")
            while self.news.wait(QUIET_S):
                pass
            return self.record_trace()


def start(walser, place, endpoint):
    """A cluster that tells its spans. Its log is of no use where it works."""
    log = open(place / "log", "w+", encoding="utf-8")
    up = [walser, "cluster", "up", "--dir", str(place / "cluster"), "--metastore", "embedded"]
    return subprocess.Popen(up, env={**os.environ, "WALSER_OTEL_ENDPOINT": endpoint}, stdout=log, stderr=log)


def address_of(cluster, place):
    """Where clients reach it, once it serves."""
    file, deadline = place / "cluster" / "cluster.json", time.monotonic() + PATIENCE_S
    while not file.exists():
        if cluster.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the cluster does not come up: {(place / 'log').read_text(encoding='utf-8')}")
        time.sleep(0.05)
    processes = json.loads(file.read_text(encoding="utf-8"))["processes"]
    return next(process["addresses"]["grpc"] for process in processes if process["role"] == "gateway")


def spans_of_a_record(walser):
    collector, server = Collector(), grpc.server(futures.ThreadPoolExecutor(4))
    otlp_grpc.add_TraceServiceServicer_to_server(collector, server)
    endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with tempfile.TemporaryDirectory() as place:
        cluster = start(walser, pathlib.Path(place), endpoint)
        try:
            environment = {**os.environ, "WALSER_SERVER": address_of(cluster, pathlib.Path(place))}
            call = lambda *command, **more: subprocess.run(
                [walser, *command], env={**environment, **more}, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S
            )
            call("topic", "create", TOPIC, "--partitions", "1")
            # The first record waits for the copies; the trace is that of one that finds them there.
            call("produce", TOPIC, "a record before")
            call("produce", TOPIC, "a record in a trace", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
            call("consume", TOPIC, "--from", "earliest", "--end", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
            return collector.wait()
        finally:
            cluster.terminate()
            cluster.wait(PATIENCE_S)
            server.stop(0)


def in_order(told):
    """The spans from the root down, children by their begin, the consumer's last; each with its depth."""
    children, ids = {}, {span.span_id for _, span in told}
    for service, span in sorted(told, key=lambda entry: entry[1].start_time_unix_nano):
        children.setdefault(span.parent_span_id if span.parent_span_id in ids else b"", []).append((service, span))
    rows = []

    def add(parent, depth):
        for service, span in children.get(parent, []):
            rows.append((depth, service, span))
            add(span.span_id, depth + 1)

    add(b"", 0)
    return sorted(rows, key=lambda row: row[2].name.startswith("process "))


def bar_text(ms):
    return f"{ms:.2f} ms" if ms < 10 else f"{ms:.0f} ms"


def draw(told):
    """The picture. The consumer comes later; its bar stands at the right, with the link to what it reads."""
    rows = in_order(told)
    trace = [span for _, _, span in rows if not span.name.startswith("process ")]
    begin = min(span.start_time_unix_nano for span in trace)
    length = max(span.end_time_unix_nano for span in trace) - begin
    left, right = MARGIN + NAMES_WIDTH, WIDTH - MARGIN - 150
    x = lambda at: left + (right - left) * (at - begin) / length
    height = TOP + ROW * len(rows) + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="ui-sans-serif, system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff" stroke="#d0d7de"/>',
        f'<text x="{MARGIN}" y="28" font-size="15" font-weight="600" fill="#1f2328">One record, one trace</text>',
        f'<text x="{MARGIN}" y="48" fill="#59636e">trace {trace[0].trace_id.hex()} · {bar_text((trace[0].end_time_unix_nano - begin) / 1e6)} from the producer\'s call to its answer</text>',
    ]
    middles = {}
    for number, (depth, service, span) in enumerate(rows):
        y, later = TOP + ROW * number, span.name.startswith("process ")
        kind, colour = COLOURS.get(span.kind, ("other", "#8c959f"))
        ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
        from_x, to_x = (right + 62, right + 86) if later else (x(span.start_time_unix_nano), x(span.end_time_unix_nano))
        middles[span.span_id] = (from_x, to_x, y + ROW / 2)
        name_x = MARGIN + 18 * depth
        if number % 2:
            lines.append(f'<rect x="1" y="{y}" width="{WIDTH - 2}" height="{ROW}" fill="#f6f8fa"/>')
        short = span.name.replace("walser.internal.v1.", "").replace("walser.v1.", "")
        lines.append(f'<text x="{name_x}" y="{y + 19}" fill="#1f2328">{escape(short)} <tspan fill="#59636e">{escape(service)}</tspan></text>')
        lines.append(f'<rect x="{from_x:.1f}" y="{y + 8}" width="{max(to_x - from_x, 2):.1f}" height="{ROW - 16}" rx="2" fill="{colour}"><title>{kind}</title></rect>')
        lines.append(f'<text x="{to_x + 6:.1f}" y="{y + 19}" font-size="11" fill="#59636e">{"later, linked" if later else bar_text(ms)}</text>')
    for _, _, span in rows:
        for link in span.links:
            if link.span_id in middles:
                (_, to_x, to_y), (from_x, up_x, from_y) = middles[link.span_id], middles[span.span_id]
                way = f"M{(from_x + up_x) / 2:.1f} {from_y - ROW / 2 + 8} V{to_y} H{to_x + 56:.1f}"
                lines.append(f'<path d="{way}" fill="none" stroke="{COLOURS[5][1]}" stroke-dasharray="4 3"/>')
    legend = MARGIN
    for kind, colour in COLOURS.values():
        lines.append(f'<rect x="{legend}" y="{height - 25}" width="10" height="10" rx="2" fill="{colour}"/>')
        lines.append(f'<text x="{legend + 16}" y="{height - 16}" font-size="12" fill="#59636e">{kind}</text>')
        legend += 100
    return "\n".join([*lines, "</svg>\n"])


def main():
    walser, picture = sys.argv[1], pathlib.Path(sys.argv[2])
    told = spans_of_a_record(walser)
    picture.write_text(draw(told), encoding="utf-8")
    print(f"{picture}: {len(told)} spans of {len({service for service, _ in told})} kinds of processes")


if __name__ == "__main__":
    main()
