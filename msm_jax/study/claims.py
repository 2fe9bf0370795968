"""Which process does what in a study's directory, so that several can work on it at a time.

claims/NAME.N is a file that only one process can create: it holds the claim NAME until it deletes
the file. Every BEAT seconds it sets the file's time anew. A claim is dead if its process on this
machine has ended, or if its time has not changed for STALE seconds by the clock of the one who
looks; the clocks of two machines are never compared. A dead claim N is taken over by creating N+1,
which again only one can do. Nothing of this needs locks, which not every file system has.
"""

import contextlib
import errno
import os
import pathlib
import platform
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator

from msm_jax.errors import UserError
from msm_jax.files import delete, dumps, open_own, read_json
from msm_jax.links import below

BEAT, STALE = 30.0, 90.0  # seconds
_FORM = {"machine": str, "host": str, "pid": int, "started": str, "token": str}


class Claims:
    """The claims of one process; they are renewed while it is used as a context manager.

    Attributes:
      lost: names of claims that others took over, because this machine stood still for too long.
    """

    def __init__(self, workdir: pathlib.Path, clock: Callable[[], float] = time.monotonic):
        self._folder, self._clock = below(workdir, "claims"), clock
        self._held: dict[str, tuple[pathlib.Path, dict]] = {}
        self._seen: dict[pathlib.Path, tuple[int, float]] = {}  # time of a file, and since when
        self._changing, self._ended = threading.Lock(), threading.Event()
        self.lost: set[str] = set()

    def __enter__(self) -> "Claims":
        threading.Thread(target=self._keep_beating, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        for name in [*self._held]:
            self.release(name)

    def take(self, name: str, pid: int = 0) -> bool:
        """Hold a claim for a process of this machine, this one by default; False if it is taken."""
        before = self._look(name)
        if not all(self._is_dead(path, holder) for path, holder in before.items()):
            return False
        number = max(map(_number, before), default=-1) + 1
        path = self._folder / f"{name}.{number}"
        pid = pid or os.getpid()
        content = {
            "machine": _machine(), "host": platform.node(), "pid": pid, "started": _started(pid),
            "token": secrets.token_hex(8),
        }  # fmt: skip
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with open_own(path, "x", encoding="utf-8") as file:
                file.write(dumps(content))
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ESTALE):  # gcsfuse notices it when it is closed
                return False
            raise
        expected = {**before, path: content}
        if any(expected.get(each) != holder for each, holder in self._look(name).items()):
            delete(path, inside=self._folder)  # another process came while this one looked
            return False
        for dead in before:
            delete(dead, inside=self._folder)
        with self._changing:
            self._held[name] = path, content
            self.lost.discard(name)
        return True

    def release(self, name: str) -> None:
        """Let go of a claim; nothing happens if it is not held."""
        with self._changing:
            path, content = self._held.pop(name, (self._folder, {}))
            if content and self._holder(path) == content:
                delete(path, inside=self._folder)

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Wait for a claim that is held for moments only, such as that of the report."""
        while not self.take(name):
            self._ended.wait(0.05)
        try:
            yield
        finally:
            self.release(name)

    def holder(self, name: str) -> str:
        """ "process 12 on host a"; "" if nobody is known to hold the claim."""
        known = [f"process {h['pid']} on host {h['host']}" for h in self._look(name).values() if h]
        return known[-1] if known else ""

    def beat(self) -> None:
        """Renew all claims."""
        with self._changing:
            for name, (path, content) in [*self._held.items()]:
                holder = self._holder(path)
                if holder == content:
                    os.utime(path)
                elif holder != {}:
                    del self._held[name]
                    self.lost.add(name)

    def _keep_beating(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):  # tried again in BEAT seconds
                self.beat()

    def _look(self, name: str) -> dict[pathlib.Path, dict | None]:
        """The files of a claim in order, with their holders: one, or also those it takes over."""
        found = [each for each in self._folder.glob(f"{name}.*") if _number(each) >= 0]
        return {path: self._holder(path) for path in sorted(found, key=_number)}

    def _holder(self, path: pathlib.Path) -> dict | None:
        """Who holds a claim; None where the file is gone, {} where it cannot be read."""
        try:
            return read_json(path, _FORM)  # opening it makes NFS look at it anew
        except UserError:  # it is being written, or damaged
            return {}

    def _is_dead(self, path: pathlib.Path, holder: dict | None) -> bool:
        if holder and holder["machine"] == _machine():
            return holder["started"] != _started(holder["pid"])
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:
            return True
        if self._seen.get(path, (0, 0.0))[0] != changed:
            self._seen[path] = (changed, self._clock())
        return self._clock() - self._seen[path][1] > STALE


def _number(path: pathlib.Path) -> int:
    """N of claims/NAME.N; -1 of another file."""
    match = re.fullmatch(r".+\.([0-9]+)", path.name)
    return int(match[1]) if match else -1


def _machine() -> str:
    """What is the same for all processes that can see each other's numbers, and for no others."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _started(pid: int) -> str:
    """When a process of this machine started, by its kernel; "" if it has ended."""
    if not os.path.exists("/proc/self/stat"):
        try:
            os.kill(pid, 0)
        except OSError:
            return ""
        return "unknown"
    with contextlib.suppress(OSError):
        state, *fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    return ""
