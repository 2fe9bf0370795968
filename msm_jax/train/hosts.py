"""Several processes as one run: how they join, share rows, stop together, and end if one hangs."""

import contextlib
import faulthandler
import functools
import multiprocessing
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
import numpy as np

from msm_jax.command import EXIT_USER_ERROR, Preempted, message_of
from msm_jax.errors import UserError
from msm_jax.files import delete, open_own

START_SECONDS = 300  # that processes wait for each other at the start
BARRIER_SECONDS = 600.0


def initialize(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Joins this process to the others of the run, before JAX is used otherwise.

    With nothing given JAX finds the others on a TPU pod, Slurm or GKE.
    """
    given = (coordinator, processes, process) if coordinator else ()
    try:
        jax.distributed.initialize(*given, initialization_timeout=START_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"coordinator={coordinator or 'found by JAX'}, process {process} of {processes}: the "
            f"others could not be joined: {str(error).splitlines()[0]}"
        ) from error


def is_first() -> bool:
    """Whether this is the process that writes the run's files."""
    return jax.process_index() == 0


def barrier(name: str, seconds: float = BARRIER_SECONDS) -> None:
    """Waits until all processes are here; UserError if some were not, after so many seconds."""
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


def place_rows(
    rows_of: Callable[[int, int], dict[str, np.ndarray]],
    shape: tuple[int, int],
    place: jax.sharding.NamedSharding,
) -> dict[str, jax.Array]:
    """The global batch [B, T] on the devices; a process makes only the rows that its devices hold.

    `rows_of` is (start, stop) -> rows of the global batch by name, as from `Data.rows`.
    """
    if place.mesh.size == 1:
        return jax.device_put(rows_of(0, shape[0]), place)
    made = functools.cache(rows_of)

    def shard(name: str, index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        return made(start, stop)[name][:, index[1]]

    names = ("tokens", "targets", "loss_weights", "segment_ids", "positions")
    return {name: _from_shards(shape, place, functools.partial(shard, name)) for name in names}


def replicated(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Numbers that are the same in all processes, on every device of a mesh."""
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.tree.map(lambda each: _from_shards((), place, lambda _: np.asarray(each)), tree)


def _from_shards(
    shape: tuple[int, ...],
    place: jax.sharding.NamedSharding,
    shard: Callable[[tuple[slice, ...]], np.ndarray],
) -> jax.Array:
    with jax.transfer_guard_host_to_device("allow"):  # JAX counts this explicit way as implicit
        return jax.make_array_from_callback(shape, place, shard)


def to_host(array: jax.Array) -> np.ndarray:
    """The full array, also where other processes hold parts of it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """One of several processes that fails exits at once, so that the others fail as well.

    Python's own exit would first wait for them, in JAX's shutdown.
    """
    try:
        yield
    except Preempted:
        raise
    except Exception as error:
        if jax.process_count() == 1:
            raise
        message = message_of(error)
        if message is None:
            traceback.print_exc()
        else:
            print(f"error: {message}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1 if message is None else EXIT_USER_ERROR)


class StopRequest:
    """Whether to stop, which all processes have to decide at the same step.

    The first SIGTERM, SIGHUP (its terminal is gone) or Ctrl-C requests it; a second one ends the
    process at once, except a SIGHUP, which comes from the shell and from the kernel, and except in
    a worker of a study, which may get one SIGTERM from a scheduler and one from its runner. With
    several processes the request travels through the step itself: `add_to` puts it into the batch,
    `agreed` reads the sum over all processes from the step's metrics.
    """

    def __init__(self, mesh: jax.sharding.Mesh):
        self._requested, self._mesh = False, mesh

    def add_to(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The batch with the flags of all processes, if there are several."""
        if jax.process_count() == 1:
            return batch
        axes = jax.sharding.PartitionSpec(self._mesh.axis_names)
        place = jax.sharding.NamedSharding(self._mesh, axes)
        mine = np.full((1,), self._requested, np.int32)
        stop = _from_shards((self._mesh.size,), place, lambda index: mine)
        return {**batch, "stop": stop}

    def agreed(self, metrics: dict[str, Any] | None) -> bool:
        """Whether all stop now, by the metrics of the step before."""
        if jax.process_count() == 1:
            return self._requested
        return metrics is not None and int(jax.device_get(metrics["stop"])) > 0

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Handles signals inside; in a thread that is not the main one its owner handles them."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self._requested and number != signal.SIGHUP and not is_worker:
                os._exit(128 + number)
            self._requested = True

        is_worker = multiprocessing.parent_process() is not None
        before: dict[int, Any] = {}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            ignored = signal.getsignal(number) is signal.SIG_IGN  # under nohup, and in a worker
            if number == signal.SIGTERM or not ignored:
                with contextlib.suppress(ValueError):
                    before[number] = signal.signal(number, handle)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def watchdog(seconds: float, run: pathlib.Path) -> Iterator[Callable[[], None]]:
    """Ends a process in which the function that it gives is not called for so many seconds; 0: off.

    The stacks of all threads are then in hang.txt of the run. Written in C, so that it also works
    while Python hangs inside a collective.
    """
    if not seconds:
        yield lambda: None
        return
    path = run / ("hang.txt" if jax.process_count() == 1 else f"hang-{jax.process_index()}.txt")
    with contextlib.ExitStack() as stack:
        stack.callback(delete, path, run)
        file = stack.enter_context(open_own(path, "w", encoding="utf-8"))
        stack.callback(faulthandler.cancel_dump_traceback_later)
        yield functools.partial(faulthandler.dump_traceback_later, seconds, exit=True, file=file)
