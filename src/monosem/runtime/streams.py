"""BesideStream: a thread's own order of work on a CUDA device, beside that of the steps there.

Work on a device is done in the order in which a stream got it, and a copy from another device lets the
stream that receives it wait for the work before it there. A thread that makes activations ahead would so
let training wait for the language model; with a stream of its own it does not.
"""

import contextlib
from collections.abc import Generator

import torch


class BesideStream:
    """A stream of `device`; on other devices than CUDA nothing is done."""

    def __init__(self, device: torch.device) -> None:
        """Make the stream."""
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def here(self) -> torch.cuda.Event | None:
        """Return how far the calling thread's work on the device has come."""
        if self._stream is None:
            return None
        moment = torch.cuda.Event()
        moment.record(torch.cuda.current_stream(self._device))
        return moment

    @contextlib.contextmanager
    def after(self, moment: torch.cuda.Event | None) -> Generator[None]:
        """Do what is inside on the stream, not before `moment`, and wait until it is done.

        What was freed before `moment` is not read any more then, so its memory may be written again.
        """
        if self._stream is None or moment is None:
            yield
            return
        self._stream.wait_event(moment)
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()
