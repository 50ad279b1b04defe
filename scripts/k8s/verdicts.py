"""A line for each step of a test, and the totals."""

import time


class CannotGoOn(Exception):
    """A step has failed without which the others make no sense."""


class Verdicts:
    def __init__(self, details):
        """`details`: a file for what is known of steps that have failed."""
        self.details = open(details, "w", encoding="utf-8")
        self.passed, self.failed = 0, 0
        self.begun = time.monotonic()

    def step(self, name, action, describe=lambda: "", vital=False):
        begun = time.monotonic()
        try:
            said = action() or ""
        except Exception as error:  # Whatever it is, it is the verdict.
            self.failed += 1
            self.say("FAILED", begun, name, f"{type(error).__name__}: {error}")
            self.tell(name, error, describe)
            if vital:
                raise CannotGoOn(name) from error
            return False
        self.passed += 1
        self.say("ok", begun, name, said)
        return True

    def say(self, result, begun, name, said):
        took = time.monotonic() - begun
        print(f"{result:<7} {took:7.1f} s  {name}{f': {said}' if said else ''}", flush=True)

    def tell(self, name, error, describe):
        try:
            more = describe()
        except Exception as second:  # What describes may be what is broken.
            more = f"nothing more is known: {second}"
        print(f"=== {name}\n{error}\n{more}\n", file=self.details, flush=True)

    def totals(self):
        print(f"{self.passed} passed, {self.failed} failed, in {time.monotonic() - self.begun:.0f} s", flush=True)
        if self.failed:
            print(f"more on what has failed: {self.details.name}", flush=True)
        return 1 if self.failed else 0
