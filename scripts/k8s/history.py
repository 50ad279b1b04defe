"""What the clients of a test have done and seen, as lines for the judge in integration-tests/history."""

import json
import subprocess
import threading


class History:
    def __init__(self, path):
        self.path = path
        self.file = open(path, "w", encoding="utf-8")
        self.lock = threading.Lock()

    def record(self, process, type, op, **fields):
        line = json.dumps({"process": process, "type": type, "op": op, **fields})
        with self.lock:
            print(line, file=self.file)

    def judge(self, program):
        """Returns the verdict; `valid` says whether a log may behave like this."""
        with self.lock:
            self.file.close()
        answer = subprocess.run([program, self.path], capture_output=True, text=True, check=False)
        if answer.returncode not in (0, 1):
            raise RuntimeError(f"the history {self.path} cannot be read: {answer.stderr.strip()}")
        return json.loads(answer.stdout)
