"""Breaks thousands of files and reads each of them: no traceback, no hang, no growth.

    python tests/fuzz --files=10000
    python tests/fuzz --target=config.json --files=500 --seed=7
    python tests/fuzz --only=4321                       one file again, with its traceback

A file is determined by the seed and its number. It has to be read, or refused by one message that
names it, within SECONDS and GROWTH of memory. Files are read in forked processes, one per core,
which are started again after a file that ends them. Exit code 1 if any file breaks the rule.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(pathlib.Path(__file__).parent)]
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from broken import broken
from targets import TARGETS, Target, make_files

from msm_jax.command import message_of
from msm_jax.limits import MESSAGE_CHARACTERS, printable

SECONDS = 10.0  # for one file
GROWTH = 1 << 30  # bytes of address space, for one file
SHOWN = 30  # faults that are printed


@dataclasses.dataclass
class Worker:
    """A forked process: numbers of files go in, lines of JSON come out."""

    pid: int
    numbers: int
    results: int
    current: int | None = None
    since: float = 0.0
    text: bytes = b""


def target_of(number: int, seed: int, targets: list[Target]) -> tuple[Target, random.Random]:
    """Which file is broken under this number, and the generator that breaks it."""
    rng = random.Random(f"{seed}/{number}")
    return rng.choices(targets, [target.share for target in targets])[0], rng


def try_one(number: int, seed: int, targets: list[Target], good: pathlib.Path) -> dict:
    """Break a file, read it, and put the good one back; what came of it."""
    target, rng = target_of(number, seed, targets)
    path = good / target.file
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(broken(target.kind, content, rng))
    found = {"number": number, "file": target.file, "outcome": "read", "why": "", "kind": ""}
    start = time.monotonic()
    try:
        target.read(good)
    except BaseException as error:
        found |= judged(error, path)
    found["seconds"] = time.monotonic() - start
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return found


def judged(error: BaseException, path: pathlib.Path) -> dict:
    """Whether an exception ends a command in one message that names the file."""
    message = message_of(error) if isinstance(error, Exception) else None
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "msm_jax" in frame.filename] or list(frames)
    place = f"{pathlib.Path(ours[-1].filename).name}:{ours[-1].lineno}"
    problem = ""
    if message is None or isinstance(error, MemoryError | RecursionError):
        problem = f"{type(error).__name__} at {place}"
    elif path.name not in message and str(path.parent) not in message:
        problem = f"a message without the file at {place}"
    elif len(printable(message)) > MESSAGE_CHARACTERS + 100:
        problem = f"a message of {len(message)} characters at {place}"
    outcome = "fault" if problem else "refused"
    return {"outcome": outcome, "kind": problem, "why": f"{type(error).__name__}: {error}"[:500]}


def serve(numbers: int, results: int, args: argparse.Namespace, good: pathlib.Path) -> None:
    """Try the files whose numbers come in; ends with its input."""
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    with tempfile.TemporaryDirectory(prefix="msm_jax_fuzz_") as folder:
        own = pathlib.Path(folder) / "good"
        shutil.copytree(good, own)
        for target in args.targets:  # the first time some libraries and programs are loaded
            target.read(own)
        used = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        used *= resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + GROWTH, used + GROWTH))
        with os.fdopen(numbers) as lines:
            for line in lines:
                found = try_one(int(line), args.seed, args.targets, own)
                os.write(results, json.dumps(found).encode() + b"\n")


def start_worker(args: argparse.Namespace, good: pathlib.Path) -> Worker:
    """Fork a worker; it is a process group, so that its own children can be ended with it."""
    (number_out, number_in), (result_out, result_in) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        code = 0
        try:
            os.setpgid(0, 0)
            os.close(number_in)
            os.close(result_out)
            serve(number_out, result_in, args, good)
        except BaseException:
            pathlib.Path(args.log).write_text(traceback.format_exc())
            code = 1
        os._exit(code)
    os.close(number_out)
    os.close(result_in)
    return Worker(pid, number_in, result_out)


def end_worker(worker: Worker) -> str:
    """Kill a worker; how it ended, if it had ended by itself."""
    os.close(worker.numbers)
    os.killpg(worker.pid, signal.SIGKILL)
    _, status = os.waitpid(worker.pid, 0)
    os.close(worker.results)
    return f"the process ended with {os.waitstatus_to_exitcode(status)}"


def try_all(args: argparse.Namespace, good: pathlib.Path) -> list[dict]:
    """What came of each file, in the order in which they were done."""
    todo = iter(range(args.files))
    found: list[dict] = []
    workers = [start_worker(args, good) for _ in range(args.workers)]
    begun = {worker.pid: False for worker in workers}

    def give(worker: Worker) -> None:
        worker.current, worker.since = next(todo, None), time.monotonic()
        if worker.current is not None:
            os.write(worker.numbers, f"{worker.current}\n".encode())

    for worker in workers:
        give(worker)
    while active := [worker for worker in workers if worker.current is not None]:
        ready, _, _ = select.select([worker.results for worker in active], [], [], 0.5)
        for worker in active:
            if worker.results in ready and (text := os.read(worker.results, 1 << 16)):
                begun[worker.pid] = True
                worker.text += text
                if worker.text.endswith(b"\n"):
                    found.append(json.loads(worker.text))
                    worker.text = b""
                    give(worker)
                continue
            # The first file waits for what is loaded once.
            limit = SECONDS if begun[worker.pid] else 60 + SECONDS
            late = time.monotonic() - worker.since > limit
            if not late and worker.results not in ready:
                continue
            ended = end_worker(worker)
            how = f"hangs: more than {SECONDS:.0f} seconds" if late else ended
            name = target_of(worker.current, args.seed, args.targets)[0].file
            found.append({"number": worker.current, "file": name, "outcome": "fault", "why": how,
                          "kind": how, "seconds": SECONDS if late else 0.0})  # fmt: skip
            if not begun[worker.pid]:
                raise SystemExit(f"a worker cannot read the good files: {how}: see {args.log}")
            fresh = start_worker(args, good)
            workers[workers.index(worker)] = fresh
            begun[fresh.pid] = False
            give(fresh)
    for worker in workers:
        end_worker(worker)
    return found


def report(found: list[dict], seconds: float) -> bool:
    """Print counts by file and the faults by kind; whether there are none."""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    slowest = max(found, key=lambda each: each["seconds"])
    kinds: dict[tuple[str, str], list[dict]] = {}
    for each in found:
        counts[each["file"]][each["outcome"]] += 1
        if each["outcome"] == "fault":
            kinds.setdefault((each["file"], each["kind"]), []).append(each)
    print(f"{'file':40} {'read':>6} {'refused':>8} {'faults':>7}")
    for name, count in sorted(counts.items()):
        print(f"{name:40} {count['read']:6} {count['refused']:8} {count['fault']:7}")
    for (name, kind), some in sorted(kinds.items(), key=lambda item: -len(item[1]))[:SHOWN]:
        print(f"\n{name}: {kind}: {len(some)} files, such as --only={some[0]['number']}")
        print(f"    {some[0]['why']}")
    faults = sum(map(len, kinds.values()))
    print(
        f"\n{len(found)} files in {seconds:.0f} s, {faults} faults; the slowest took "
        f"{slowest['seconds']:.1f} s (--only={slowest['number']}, {slowest['file']})"
    )
    return not faults


def show_one(args: argparse.Namespace, good: pathlib.Path) -> None:
    """Break one file, say where it is, and read it without catching anything."""
    target, rng = target_of(args.only, args.seed, args.targets)
    path = good / target.file
    content = broken(target.kind, path.read_bytes(), rng)
    path.write_bytes(content)
    print(f"{path}: {len(content)} bytes: {content[:2000]!r}", file=sys.stderr)
    target.read(good)
    print("read without an error", file=sys.stderr)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=10_000, help="how many are broken")
    parser.add_argument("--seed", type=int, default=0, help="of what is broken, and how")
    parser.add_argument("--target", default="", help="only files whose path has this in it")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--messages", action="store_true", help="print every message")
    parser.add_argument("--only", type=int, help="read the file of this number, and stop")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="msm_jax_fuzz_") as folder:
        good = pathlib.Path(folder) / "good"
        good.mkdir()
        if not (pid := os.fork()):
            make_files(good)
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            sys.exit("the good files could not be written")
        args.log = f"{folder}.log"
        args.targets = [t for t in TARGETS if args.target in t.file and (good / t.file).exists()]
        if not args.targets:
            parser.error(f"--target={args.target}: no file has this in its path")
        if args.only is not None:
            show_one(args, good)
            return
        start = time.monotonic()
        found = try_all(args, good)
        for each in found if args.messages else ():
            print(each["number"], each["file"], each["outcome"], each["why"])
        sys.exit(not report(found, time.monotonic() - start))


if __name__ == "__main__":
    main()
