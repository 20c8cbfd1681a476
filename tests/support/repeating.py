"""Work that repeats in threads while a test does something else."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def repeating(*works: Callable[[], object]) -> Iterator[None]:
    """Repeat each of these in its own thread until the block ends; raises their errors."""
    done = threading.Event()

    def repeat(work: Callable[[], object]) -> None:
        while not done.is_set():
            work()

    with ThreadPoolExecutor(len(works)) as pool:
        threads = [pool.submit(repeat, work) for work in works]
        try:
            yield
        finally:
            done.set()
    for thread in threads:
        thread.result()
