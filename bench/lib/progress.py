"""Progress lines on standard error, with the time since the start."""

import sys
import time


class Progress:
    def __init__(self, quiet=False):
        self.began = time.monotonic()
        self.quiet = quiet

    def say(self, text):
        if not self.quiet:
            passed = int(time.monotonic() - self.began)
            print(f"[{passed // 60:3d}:{passed % 60:02d}] {text}", file=sys.stderr, flush=True)
