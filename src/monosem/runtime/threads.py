"""Threads that do torch's work side by side, each with a share of torch's own threads."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch


def pool(n: int, threads_each: int, name: str) -> ThreadPoolExecutor:
    """Return `n` threads that have begun, each of which may use `threads_each` threads of torch's.

    What the calling thread may use stays as it is.
    """
    own = torch.get_num_threads()
    everyone = threading.Barrier(n)

    def begin() -> None:
        torch.get_num_threads()  # the first question sets the number to the process's
        torch.set_num_threads(threads_each)

    made = ThreadPoolExecutor(n, name, initializer=begin)
    waiting: list[Future[int]] = [made.submit(everyone.wait) for _ in range(n)]
    wait(waiting)
    torch.set_num_threads(own)  # threads that are begun later start with the number set last
    return made
