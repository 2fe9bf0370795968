"""Where a study keeps its things, and the marks that say what is done.

A mark is written last and by rename, so that what a killed process left never looks done.
"""

import contextlib
import datetime
import json
import os
import pathlib
from collections.abc import Iterator

from msm_jax import strict_json
from msm_jax.errors import UserError
from msm_jax.evals.thoughts import READING
from msm_jax.study.graph import WORLD, Stage, Study, identities


def stage_dir(workdir: pathlib.Path, stage_id: str) -> pathlib.Path:
    return workdir / "stages" / stage_id


def evals_dir(workdir: pathlib.Path, stage_id: str) -> pathlib.Path:
    return workdir / "evals" / stage_id


def place(workdir: pathlib.Path, path: str, world: str) -> str:
    """A path of the config as a file; `world` is the id of the seed's world."""
    if path.startswith(WORLD):
        return str(stage_dir(workdir, world) / path.removeprefix(WORLD))
    return path


def read_stage(workdir: pathlib.Path, stage: Stage) -> dict | None:
    """stage.json of a stage that is done, else None."""
    mark = _mark(stage_dir(workdir, stage.id) / "stage.json", ("digest", "summary", "code"))
    if mark is not None and mark["digest"] != stage.digest:
        raise UserError(
            f"{stage_dir(workdir, stage.id)}: holds the stage {mark['digest']}, this study's is "
            f"{stage.digest}: use another --workdir"
        )
    return mark


def read_evals(workdir: pathlib.Path, stage_id: str, asked: dict) -> dict | None:
    """evals.json if exactly these questions were answered, and read as they are now; else None."""
    mark = read_json(evals_dir(workdir, stage_id) / "evals.json")
    if not isinstance(mark, dict) or not {"code", "summaries", "seconds"} <= mark.keys():
        return None
    wanted = {"done": True, "asked": identities(asked), "reading": READING}
    return mark if {key: mark.get(key) for key in wanted} == wanted else None


def _mark(path: pathlib.Path, keys: tuple[str, ...]) -> dict | None:
    mark = read_json(path)
    if mark is None:
        return None
    missing = [key for key in keys if not isinstance(mark, dict) or key not in mark]
    if missing:
        raise UserError(
            f"{path}: lacks {', '.join(missing)}, so it is not what this version of a study wrote: "
            "delete its directory, or use another --workdir"
        )
    return mark


def is_done(workdir: pathlib.Path, study: Study, kind: str, stage_id: str) -> bool:
    """Whether a job ("stage" or "evals" of a stage) has its mark."""
    if kind == "stage":
        return read_stage(workdir, study.stages[stage_id]) is not None
    return read_evals(workdir, stage_id, study.questions[stage_id]) is not None


def read_json(path: pathlib.Path) -> dict | None:
    """None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}): delete its directory") from error


def read_lines(path: pathlib.Path, limit: int | None = None) -> list[dict]:
    """The whole rows of a JSONL file; none where there is no file."""
    rows: list[dict] = []
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
        for line in file:
            if len(rows) == limit or not line.endswith("\n"):
                break
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise UserError(f"{path}:{len(rows) + 1}: not a JSON object: delete its directory")
            rows.append(row)
    return rows


def write_json(path: pathlib.Path, content: object) -> None:
    """All of it or nothing, and on the disk before it has its name."""
    write_text(path, strict_json.dumps(content, indent=1) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """All of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.partial")
    with aside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps a second study out; the lock ends with its process, however that ends."""
    import fcntl

    with (workdir / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise UserError(
                f"{workdir}: another study is at work here (process {file.read().strip()}): "
                "wait for it, or use another --workdir"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        with (workdir / ".workers").open("a") as workers:
            # Workers of a study that was killed notice it at once; wait until the last has.
            fcntl.flock(workers, fcntl.LOCK_EX)
        yield


def hold_worker_lock(workdir: pathlib.Path):
    """An open file that tells `locked` that this worker is still there."""
    import fcntl

    file = (workdir / ".workers").open("a")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file
