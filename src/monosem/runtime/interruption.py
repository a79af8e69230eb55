"""Ctrl-C and SIGTERM, noticed between two steps instead of in the middle of one.

with interruption() as interrupted:
    while ...:
        one_step()
        if interrupted():
            save(); raise KeyboardInterrupt

A second Ctrl-C does not wait.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType


@contextlib.contextmanager
def interruption() -> Generator[Callable[[], bool]]:
    """Yield a function that says whether an interruption was asked for since the block began.

    Outside of the main thread, where Python delivers no signals, it always answers no.
    """
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
