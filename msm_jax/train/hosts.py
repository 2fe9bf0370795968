"""Several processes as one run: who is there, which rows are whose, and what if one hangs."""

import contextlib
import faulthandler
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Iterator

import jax
import numpy as np

from msm_jax.command import EXIT_USER_ERROR, Preempted
from msm_jax.errors import UserError

START_SECONDS = 300  # that processes wait for each other at the start


def initialize(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Joins this process to the others of the run; before JAX is used otherwise.

    With nothing given a TPU pod or a cluster that JAX knows (Slurm, GKE) is asked.

    Raises:
      UserError: the others did not come.
    """
    given = (
        {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
        if coordinator
        else {}
    )
    try:
        jax.distributed.initialize(**given, initialization_timeout=START_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"coordinator={coordinator or 'found by JAX'}, process {process} of {processes}: the "
            f"others could not be joined: {str(error).splitlines()[0]}"
        ) from error


def is_first() -> bool:
    """Whether this process writes the files that there is one of."""
    return jax.process_index() == 0


def barrier(name: str, seconds: float) -> None:
    """Waits until all processes have come here.

    Raises:
      UserError: some had not, after so many seconds.
    """
    from jax._src import distributed  # jax.experimental's barrier has no time limit

    client = distributed.global_state.client
    if client is None or jax.process_count() == 1:
        return
    try:
        client.wait_at_barrier(name, int(1000 * seconds))
    except Exception as error:
        raise UserError(
            f"process {jax.process_index()} waited {seconds:.0f} s for the others at {name!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def place_rows(rows_of, shape: tuple[int, int], place: jax.sharding.NamedSharding) -> dict:
    """The global batch, of which this process makes the rows that its devices hold.

    Args:
      rows_of: (start, stop) -> rows of the global batch by name, as `Data.rows` gives them.
      shape: [B, T] of the global batch.
    """
    if place.mesh.size == 1:
        return rows_of(0, shape[0])  # a single device fetches it faster by itself
    made: dict[tuple[int, int], dict] = {}

    def of(name):
        def part(index):
            start, stop, _ = index[0].indices(shape[0])
            if (start, stop) not in made:
                made[start, stop] = rows_of(start, stop)
            return made[start, stop][name][:, index[1]]

        return jax.make_array_from_callback(shape, place, part)

    names = ("tokens", "targets", "loss_weights", "segment_ids", "positions")
    return {name: of(name) for name in names}


def to_host(array: jax.Array) -> np.ndarray:
    """The whole array, also where other processes hold parts of it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)


@contextlib.contextmanager
def one_fate() -> Iterator[None]:
    """Of several processes, one that fails leaves at once, and so lets the others fail.

    Python's own end would wait for them first, in JAX's shutdown.
    """
    try:
        yield
    except UserError as error:
        if jax.process_count() == 1:
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(EXIT_USER_ERROR)
    except Preempted:
        raise
    except Exception:
        if jax.process_count() == 1:
            raise
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


class Stop:
    """Whether to stop, which all processes have to decide at the same step.

    The first SIGTERM, SIGHUP (its terminal is gone) or Ctrl-C asks for it; a second one ends the
    process at once, but a SIGHUP, which comes from the shell and from the kernel. With several
    processes the answer travels through the step itself: `ask` goes into it with the batch,
    `agreed` reads the sum of all of them from its metrics.
    """

    def __init__(self, mesh):
        self.asked = False
        self._mesh = mesh

    def ask(self, batch: dict) -> dict:
        if jax.process_count() == 1:
            return batch
        place = jax.sharding.NamedSharding(
            self._mesh, jax.sharding.PartitionSpec(self._mesh.axis_names)
        )
        mine = np.full((1,), self.asked, np.int32)
        stop = jax.make_array_from_callback((self._mesh.size,), place, lambda index: mine)
        return {**batch, "stop": stop}

    def agreed(self, metrics: dict | None) -> bool:
        if jax.process_count() == 1:
            return self.asked
        return metrics is not None and int(metrics["stop"]) > 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are heard inside; not outside the main thread, whose owner hears them."""

        def handle(number, frame):
            if self.asked and number != signal.SIGHUP:
                os._exit(128 + number)
            self.asked = True

        numbers = [signal.SIGTERM]
        for number in (signal.SIGINT, signal.SIGHUP):  # ignored under nohup, and in a worker
            if signal.getsignal(number) is not signal.SIG_IGN:
                numbers.append(number)
        try:
            before = {number: signal.signal(number, handle) for number in numbers}
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Watchdog:
    """Ends a process that has not been heard of for a while, with the stacks of all its threads.

    Written in C, so that it also works while Python hangs inside a collective.
    """

    def __init__(self, seconds: float, path: pathlib.Path):
        """The stacks go into `path`, which is there only if it came to that."""
        self._seconds, self._path = seconds, path
        self._file = path.open("w", encoding="utf-8") if seconds > 0 else None

    def alive(self) -> None:
        if self._file is not None:
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)

    def close(self) -> None:
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self._path.unlink(missing_ok=True)
