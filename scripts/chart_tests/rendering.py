"""Renders the chart, and finds things in what comes out."""
import functools
import json
import os
import shutil
import subprocess
import tempfile

import yaml

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
CHART = os.path.join(ROOT, "charts", "walser")
VALUE_FILES = sorted(name for name in os.listdir(os.path.join(CHART, "ci")) if name.endswith(".yaml"))
HOOK = "helm.sh/hook"


class Refused(Exception):
    """What Helm said."""


def helm(*arguments):
    done = subprocess.run(["helm", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise Refused(done.stderr)
    return done.stdout


@functools.lru_cache(maxsize=None)
def text(file, sets=(), chart=CHART, flags=()):
    arguments = ["template", "prod", chart, "--namespace", "data", *flags]
    if file:
        arguments += ["--values", os.path.join(CHART, "ci", file)]
    for key, value in sets:
        arguments += ["--set-json", f"{key}={value}"]
    return helm(*arguments)


def render(file=None, sets=None, chart=CHART, flags=()):
    """Every object, with the values of a file of ci/ and some more by their paths."""
    pairs = tuple((key, json.dumps(value)) for key, value in (sets or {}).items())
    return [one for one in yaml.safe_load_all(text(file, pairs, chart, tuple(flags))) if one]


def every():
    """The name and the objects of every value file."""
    for file in VALUE_FILES:
        yield file, render(file)


def of_kind(objects, *kinds):
    return [one for one in objects if one["kind"] in kinds]


def named(objects, kind, name):
    found = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def component(one):
    return one["metadata"]["labels"].get("app.kubernetes.io/component")


def of_component(objects, kind, name):
    found = [one for one in of_kind(objects, kind) if component(one) == name and not hooks(one)]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def hooks(one):
    """The events at which an object is made; none: it is of the release."""
    names = one["metadata"].get("annotations", {}).get(HOOK, "")
    return [name.strip() for name in names.split(",") if name]


def weight(one):
    return int(one["metadata"]["annotations"][f"{HOOK}-weight"])


def workloads(objects):
    return of_kind(objects, "StatefulSet", "Deployment")


def pods(objects):
    """Every object with pods, and the specification of these."""
    for one in objects:
        if one["kind"] == "Pod":
            yield one, one["spec"]
        elif one["kind"] in ("StatefulSet", "Deployment", "Job"):
            yield one, one["spec"]["template"]["spec"]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def main_container(workload):
    return workload["spec"]["template"]["spec"]["containers"][0]


def changed_chart(**fields):
    """A copy of the chart with other fields in Chart.yaml; the caller removes it."""
    folder = tempfile.mkdtemp()
    copy = os.path.join(folder, "walser")
    shutil.copytree(CHART, copy)
    path = os.path.join(copy, "Chart.yaml")
    with open(path) as file:
        chart = yaml.safe_load(file)
    chart.update(fields)
    with open(path, "w") as file:
        yaml.safe_dump(chart, file)
    return copy


def immutable(one):
    """What Kubernetes does not let an upgrade change."""
    spec = one.get("spec", {})
    if one["kind"] == "StatefulSet":
        fields = ("serviceName", "podManagementPolicy", "selector", "volumeClaimTemplates")
    elif one["kind"] == "Deployment":
        fields = ("selector",)
    elif one["kind"] == "Service":
        fields = ("clusterIP",)
    else:
        return None
    return {field: spec[field] for field in fields if field in spec}


def immutables(objects):
    found = {f"{one['kind']} {one['metadata']['name']}": immutable(one) for one in objects}
    return {name: fields for name, fields in found.items() if fields}
