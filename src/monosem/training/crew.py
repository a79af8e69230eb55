"""Crew: threads that take the steps of several dictionaries side by side.

The step of a small dictionary is many short operations, some of which know only one thread. Given all
threads it mostly lets them wait for each other; so each thread takes whole steps instead:

    as many steps as there are threads, or more     one thread each, in whole rounds
    the few that are left                           an even share of the threads each

How many threads a step has decides how its sums are rounded. It follows from the number of steps and of
threads alone, never from who is quicker, so that a run goes on bit for bit. With one thread, steps
follow each other and nothing here runs.
"""

import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from types import TracebackType

from monosem.runtime.threads import pool

Work = Callable[[], object]


class Crew:
    """A context manager; `run` does all of the work it is given and returns."""

    def __init__(self, n_works: int, n_threads: int) -> None:
        """Prepare for `n_works` at a time on `n_threads`."""
        self._rounds, self._begun = rounds(n_works, n_threads), False
        self._pools = {
            each: pool(side_by_side, each, "dictionaries")
            for _, side_by_side, each in self._rounds
            if side_by_side > 1
        }

    def __enter__(self) -> "Crew":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for crew in self._pools.values():
            crew.shutdown()

    def run(self, works: Sequence[Work]) -> None:
        """Do all of `works`, as many as it was prepared for; the first error among them is raised."""
        first = 0
        for n, side_by_side, each in self._rounds:
            mine = works[first : first + n]
            first += n
            if side_by_side == 1:
                for work in mine:
                    work()
            else:
                self._side_by_side(mine, self._pools[each])
        self._begun = True

    def _side_by_side(self, works: Sequence[Work], pool: ThreadPoolExecutor) -> None:
        # in a context of its own each: the policy of products, and a place for its workspace
        futures = []
        for work in works:
            futures.append(pool.submit(contextvars.copy_context().run, work))
            if not self._begun:  # what a process does once, it does not do in two threads
                wait(futures)
        wait(futures)
        for future in futures:
            future.result()


def rounds(n_works: int, n_threads: int) -> list[tuple[int, int, int]]:
    """Return in order how many works are done, how many of them side by side, on how many threads each.

    >>> rounds(8, 2)
    [(8, 2, 1)]
    >>> rounds(3, 2)
    [(2, 2, 1), (1, 1, 2)]
    >>> rounds(21, 16)
    [(16, 16, 1), (5, 5, 3)]
    >>> rounds(8, 1)
    [(8, 1, 1)]
    """
    left = n_works % n_threads
    found = [(n_works - left, n_threads, 1)] if n_works > left else []
    return found + ([(left, left, n_threads // left)] if left else [])
