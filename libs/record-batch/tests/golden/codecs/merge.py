"""Joins what the clients did with the streams of generate.py: writes cases.json, prints the table of
docs/formats/compression.md. Run in a folder with streams.tsv, java.tsv, franz-go.tsv, sarama.tsv, librdkafka.tsv and
kafka-python.tsv: python3 merge.py CASES_JSON > table.md
"""

import json
import re
import sys

CLIENTS = {
    "java": "kafka-clients",
    "librdkafka": "librdkafka",
    "franz-go": "franz-go",
    "sarama": "sarama",
    "kafka-python": "kafka-python",
}
# What librdkafka does when a stream decompresses to something that is no record: nothing. So it has read it.
READ_WITHOUT_RECORDS = "no answer"
OTHER_ENDS = ["ends the process", "never returns", "not tried"]


def rows(name):
    with open(f"{name}.tsv") as lines:
        return [line.rstrip("\n").split("\t") for line in lines]


def short(digits):
    """Runs of one byte as (ff*100), everything else as hexadecimal digits."""
    runs = r"((?:[0-9a-f]{2})*?)(([0-9a-f]{2})\3{39,})"
    return re.sub(runs, lambda run: f"{run[1]}({run[3]}*{len(run[2]) // 2})", digits)


streams, seen = rows("streams"), {client: rows(client) for client in CLIENTS}
cases, last = [], None
for index, (codec, name, digits) in enumerate(streams):
    case = {"codec": codec, "name": name, "stream": short(digits)}
    java = seen["java"][index]
    cells = []
    for client, title in CLIENTS.items():
        _, same_name, outcome, detail = seen[client][index]
        assert same_name == name
        other = outcome == "read" and client != "java" and java[2] == "read" and detail != java[3]
        if outcome == "read" or detail == READ_WITHOUT_RECORDS:
            cells.append("reads otherwise" if other else "reads")
        else:
            cells.append(next((why for why in OTHER_ENDS if detail.startswith(why)), "refuses"))
        if client == "java":
            case["plain"] = short(detail) if outcome == "read" else None
    case["clients"] = dict(zip(CLIENTS.values(), cells))
    cases.append(case)
    if codec != last:
        print(f"\n## {codec}\n\n| stream | {' | '.join(CLIENTS.values())} |\n|---|{'---|' * len(CLIENTS)}")
        last = codec
    print(f"| {name} | {' | '.join(cells)} |")
with open(sys.argv[1], "w") as out:
    out.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
