"""Progress of long loops: counts and time left, a line every few seconds."""

import sys
import time


class Progress:
    """Prints `label: done of total unit, N s left` to stderr, at most once every `every` seconds."""

    def __init__(self, label: str, total: int, unit: str, every: float = 5.0) -> None:
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.done = 0
        self.start = self.last = time.monotonic()

    def add(self, count: int) -> None:
        """Count `count` more units; prints when a line is due, and always at the end."""
        self.done += count
        now = time.monotonic()
        if self.done < self.total and now - self.last < self.every:
            return
        self.last = now
        spent = now - self.start
        left = spent / self.done * (self.total - self.done) if self.done else 0.0
        tail = f"{left:.0f} s left" if self.done < self.total else f"{spent:.0f} s"
        say(f"{self.label}: {self.done:,} of {self.total:,} {self.unit}, {tail}")


def say(line: str) -> None:
    """Print one line of progress at once."""
    print(line, file=sys.stderr, flush=True)
