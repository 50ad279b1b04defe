#!/usr/bin/env python3
"""Makes charts/walser/README.md from the comments of values.yaml: chart_readme.py [--check]

A comment describes the key below it and everything in it that has no comment of its own. `## TEXT` begins a section.
"""
import json
import os
import re
import sys

import yaml

CHART = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "charts", "walser")
HEAD = """<!-- Made from the comments of values.yaml by scripts/chart_readme.py. -->

# The chart of Walser

One server with a volume, or a cluster with its own etcd, on Kubernetes 1.30 or later:

```sh
helm install walser ./charts/walser --wait
helm install walser ./charts/walser --wait --set mode=cluster
```

What to do then, how to upgrade, grow volumes, replace a member of etcd, and what becomes of certificates:
[docs/kubernetes.md](../../docs/kubernetes.md). A misspelled key is refused. `make chart` checks the chart, and
`python3 scripts/chart_readme.py` writes this page.
"""
KEY = re.compile(r"^( *)([A-Za-z][\w-]*):")


class Page:
    """What the comments say, in their order."""

    def __init__(self, text):
        self.values = yaml.safe_load(text)
        # Titles, and under each the paths of keys with their comments.
        self.sections = []
        self.read(text.split("\n"))
        self.described = [path for _, rows in self.sections for path, _ in rows]

    def read(self, lines):
        path, comment = [], []
        for line in lines:
            stripped = line.strip()
            if line.startswith("## "):
                self.sections.append((line[3:], []))
            elif stripped.startswith("#"):
                comment.append(stripped[1:].strip())
                continue
            elif key := KEY.match(line):
                depth = len(key[1]) // 2
                path = path[:depth] + [key[2]]
                if comment:
                    self.sections[-1][1].append((tuple(path), " ".join(comment)))
            comment = []

    def undescribed(self):
        """Keys that have no comment, and are in none that has."""
        for path in self.leaves(self.values, ()):
            if not any(path[:length] in self.described for length in range(1, len(path) + 1)):
                yield ".".join(path)

    def leaves(self, value, path):
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from self.leaves(inner, (*path, name))
        else:
            yield path

    def text(self):
        out = [HEAD]
        for title, rows in self.sections:
            out.append(f"\n## {title}\n\n| key | default | what it is |\n|---|---|---|\n")
            for path, comment in rows:
                out.append(f"| `{'.'.join(path)}` | {self.default(path)} | {comment} |\n")
        return "".join(out)

    def default(self, path):
        """As JSON; nothing where what is inside is described by itself."""
        if any(other[: len(path)] == path and other != path for other in self.described):
            return ""
        value = self.values
        for name in path:
            value = value[name]
        return f"`{json.dumps(value)}`"


def main(arguments):
    with open(os.path.join(CHART, "values.yaml")) as file:
        page = Page(file.read())
    undescribed = ", ".join(page.undescribed())
    if undescribed:
        sys.exit(f"values.yaml has no comment for {undescribed}")
    path = os.path.join(CHART, "README.md")
    if arguments != ["--check"]:
        with open(path, "w") as file:
            file.write(page.text())
        return
    with open(path) as file:
        if file.read() != page.text():
            sys.exit("charts/walser/README.md is not of these values: run python3 scripts/chart_readme.py")


if __name__ == "__main__":
    main(sys.argv[1:])
