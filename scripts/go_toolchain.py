"""Unpacks a Go toolchain from the module proxy: go_toolchain.py VERSION DIR. It is what GOTOOLCHAIN does, without a Go."""

import io
import os
import platform
import sys
import urllib.request
import zipfile

version, directory = sys.argv[1:]
machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
name = f"v0.0.1-{version}.linux-{machine}"
proxy = os.environ.get("GOPROXY", "https://proxy.golang.org").split(",")[0]
with urllib.request.urlopen(f"{proxy}/golang.org/toolchain/@v/{name}.zip") as answer:
    archive = zipfile.ZipFile(io.BytesIO(answer.read()))
prefix = f"golang.org/toolchain@{name}/"
for entry in archive.infolist():
    path = os.path.join(directory, entry.filename.removeprefix(prefix))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(archive.read(entry))
    if "/bin/" in path or "/pkg/tool/" in path:
        os.chmod(path, 0o755)
