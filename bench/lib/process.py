"""Child processes and signals.

A benchmark that is interrupted must leave nothing behind. SIGINT, SIGTERM and SIGHUP all become the
exception `Interrupted`, so that `finally` blocks stop the server, and every child that was started here
is ended on the way out.
"""

import signal
import subprocess
from contextlib import contextmanager


class Interrupted(BaseException):
    """Raised in the main thread by SIGINT, SIGTERM or SIGHUP."""

    def __init__(self, signum):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def _raise_interrupted(signum, _frame):
    # A second signal must not cut off the clean-up that the first one began.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise Interrupted(signum)


def install_signal_handlers():
    """Turn the usual ending signals into the exception Interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _raise_interrupted)


def end(child, grace=5.0):
    """End one child process: ask first, insist after `grace` seconds."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(grace)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextmanager
def started(command, **options):
    """Start a child in its own session (so that Ctrl-C reaches us alone) and end it on the way out."""
    child = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield child
    finally:
        end(child)


class CommandFailed(RuntimeError):
    """A child process ended with an error; the message carries its standard error."""


def run(command, **options):
    """Run a command to its end; return its standard output, raise CommandFailed with its errors."""
    options.setdefault("stdin", subprocess.DEVNULL)
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as child:
        out, err = child.communicate()
    if child.returncode != 0:
        raise CommandFailed(f"{command[0]} ended with status {child.returncode}: {(err or out).strip()[-2000:]}")
    return out
