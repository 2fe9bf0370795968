"""Run checkpoints by Orbax: written aside and renamed, so that a kill leaves the last one whole.

A checkpoint holds params, optimizer state and, as JSON, what a run that goes on from it has to
match (facts), what it gives back (progress), who made it, and a checksum of every array. That of an
adapter on a parent's weights holds the adapter alone, and where the parent is (base).
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import platform
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, abstract_params, param_shardings
from msm_jax.model.adapter import join, only_adapter, without_adapter
from msm_jax.outputs import unreadable
from msm_jax.weights.differences import differences
from msm_jax.weights.fingerprint import checksums, params_fingerprint
from msm_jax.weights.hf_config import read_json

# 2: weights outputs first; 3: the optimizer counts skipped steps; 4: checksums see every place
FORMAT = 4


def directory(run_dir: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(run_dir).absolute() / "checkpoints"


class Keeper:
    """Saves and restores the checkpoints of one run; from `checkpointer`."""

    def __init__(self, checkpointer, keep: int, keep_steps: Sequence[int]):
        self._orbax = checkpointer
        self._keep, self._keep_steps = keep, frozenset(keep_steps)
        self._written: tuple[int, str, dict] | None = None  # step, seal and shapes; not verified
        self.base: dict | None = None  # of the checkpoint that was restored
        self.directory = pathlib.Path(checkpointer.directory)

    def save(
        self,
        step: int,
        params: dict,
        optimizer_state: Any,
        facts: dict,
        progress: dict,
        made_by: dict | None = None,
        base: dict | None = None,
    ) -> None:
        """Write params and optimizer state after `step` steps, as one checkpoint or not at all.

        Returns when everything has been copied, and writes while training goes on; an error of
        the writing comes out of the next `save`, of `saved` or of `wait`. All processes of a run
        call it.

        Args:
          facts: what a restore has to match; JSON.
          progress: what it gives back; JSON.
          made_by: versions and mesh, to read and not to match; JSON.
          base: as from `base_facts`, where `params` are an adapter only.

        Raises:
          UserError: the file system refused; earlier checkpoints stay as they are.
        """
        self.wait()
        state = {"params": params}
        if jax.tree.leaves(optimizer_state):  # weights that nobody has trained here have none
            state["optimizer"] = optimizer_state
        metadata = {
            "facts": {"format": FORMAT, **facts},
            "progress": progress,
            "made_by": made_by or {},
            "checksums": checksums(state),
            "base": base,
        }
        metadata = json.loads(json.dumps(metadata, allow_nan=False))
        metadata["seal"] = _seal(metadata)
        with self._errors(f"the checkpoint of step {step}"):
            self._orbax.save_checkpointables_async(
                step, state, force=True, custom_metadata=metadata
            )
        self._written = step, metadata["seal"], _shapes(state)

    def saved(self) -> int | None:
        """The step of the last `save`, once: when it is committed and was opened again.

        Raises:
          UserError: it cannot be opened; earlier checkpoints are still there.
        """
        if self._written is None or jax.process_count() > 1:
            return None  # several processes wait for each other, so they do it at the same step
        if self._orbax.is_saving_in_progress():
            return None
        return self.wait()

    def wait(self) -> int | None:
        """Until what was saved is committed, as `saved`; raises what went wrong."""
        with self._errors("a checkpoint"):
            self._orbax.wait()
        if self._written is None:
            return None
        (step, seal, shapes), self._written = self._written, None
        self._open_again(step, seal, shapes)
        if jax.process_index() == 0:
            self._delete_superseded()
        return step

    def _open_again(self, step: int, seal: str, shapes: dict) -> None:
        """Index, shapes, types and metadata of a checkpoint are on the disk as they were saved."""
        where, arrays = self.directory / str(step), {}
        with contextlib.suppress(Exception):  # what cannot be opened is named below
            arrays = _shapes(self._orbax.checkpointables_metadata(step).metadata)
        lost = [name for name, shape in shapes.items() if arrays.get(name) != shape]
        if lost or _metadata(self._orbax, step)["seal"] != seal:
            raise UserError(
                f"{where}: was written and cannot be read back: "
                f"{_some(lost) or 'its metadata'}; earlier checkpoints are kept: "
                f"{[s for s in steps(self.directory) if s != step]}; use another --workdir, with a "
                "plain name on a file system that keeps what is written"
            )

    def _delete_superseded(self) -> None:
        there = steps(self.directory)
        for step in sorted({*there[: -self._keep]} - self._keep_steps):
            # Without its marker a directory is no checkpoint, whenever a kill comes.
            (self.directory / str(step) / COMMIT_MARKER).unlink()
            shutil.rmtree(self.directory / str(step), ignore_errors=True)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # which kind depends on where the disk was full
            if not _out_of_space(error):
                raise
            raise UserError(
                f"{self.directory}: no room for {what}: free some space and run the same command "
                "again; earlier checkpoints are whole"
            ) from error

    def restore(
        self, params: dict, optimizer_state: Any, facts: dict, fall_back: bool = False
    ) -> tuple[int, dict, Any, dict] | None:
        """The newest checkpoint as (step, params, optimizer state, progress), None without one.

        Args:
          params, optimizer_state: arrays or ShapeDtypeStructs that the checkpoint has to match;
            their shardings may be others than those it was saved with.
          facts: what the run is made of; a difference from the checkpoint's is an error.
          fall_back: take the newest checkpoint that can be read, instead of an error.

        Raises:
          UserError: listing each fact that differs, with both values; or the arrays that are not
            what was saved.
        """
        self.wait()
        there = steps(self.directory)
        state = {"params": params, "optimizer": optimizer_state}
        for step in reversed(there):
            try:
                metadata = _metadata(self._orbax, step)
            except UserError:
                if fall_back and step != there[0]:
                    continue
                raise
            self._check_facts(step, metadata["facts"], facts)
            try:
                found = _load(self._orbax, step, jax.tree.map(_abstract, state), metadata)
            except UserError:
                if fall_back and step != there[0]:
                    continue
                raise
            self.base = metadata["base"]
            return step, found["params"], found["optimizer"], metadata["progress"]
        return None

    def _check_facts(self, step: int, saved: dict, facts: dict) -> None:
        if changed := differences(saved, {"format": FORMAT, **facts}):
            raise UserError(
                f"{self.directory}: the checkpoint of step {step} is another run's:\n"
                + "".join(f"  {line}\n" for line in changed)
                + "use another --workdir, or the configuration it was made with"
            )


@contextlib.contextmanager
def checkpointer(
    run_dir: str | os.PathLike, keep: int, keep_steps: Sequence[int] = ()
) -> Iterator[Keeper]:
    """A Keeper that keeps the newest `keep` checkpoints and those of `keep_steps`.

    On the way out it waits for what is being written, unless there is an exception already.
    """
    path = directory(run_dir)
    path.mkdir(parents=True, exist_ok=True)
    _refuse_uncommitted(path)
    # It keeps all: the older ones go when the newest has been opened again.
    found = ocp.training.Checkpointer(path, cleanup_tmp_directories=True)
    keeper = Keeper(found, keep, keep_steps)
    try:
        yield keeper
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            found.close()
        raise
    keeper.wait()
    found.close()


def steps(path: pathlib.Path) -> list[int]:
    """Steps of the committed checkpoints in a `directory`, in order."""
    there = path.iterdir() if path.is_dir() else ()
    return sorted(int(p.name) for p in there if p.name.isdigit() and (p / COMMIT_MARKER).exists())


def _refuse_uncommitted(path: pathlib.Path) -> None:
    """Orbax takes a step without its commit marker for half written, and would delete it.

    The marker is there before a checkpoint gets its name, so a newest one without it was not
    written here. An older one is what a kill left of a checkpoint that was being deleted.
    """
    named = [step for step in path.iterdir() if step.name.isdigit()] if path.is_dir() else []
    newest = max(named, key=lambda step: int(step.name), default=None)
    if newest is not None and not (newest / COMMIT_MARKER).exists():
        raise UserError(
            f"{newest}: has no {COMMIT_MARKER}, so it was not copied whole: copy it again with all "
            f"its files; or {_way_out(path, int(newest.name))}"
        )


def _way_out(path: pathlib.Path, step: int) -> str:
    if wrong := unreadable(path):
        return (
            f"checkpoints below a path with {wrong!r} cannot be read: rename that directory to "
            "letters, digits, '.', '-', '_', and try again"
        )
    others = [other for other in steps(path) if other != step]
    if others:
        return f"delete that directory to go on from another checkpoint: {others}"
    return "begin anew in another --workdir: there is no other checkpoint here"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _names(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _shapes(tree: Any) -> dict[str, tuple]:
    return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in _names(tree)}


def _seal(metadata: dict) -> str:
    """SHA-256 of what a checkpoint says of itself."""
    said = {key: value for key, value in metadata.items() if key != "seal"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _metadata(checkpointer, step: int) -> dict:
    """What a checkpoint says of itself, as `Keeper.save` wrote it.

    Raises:
      UserError: it is of another format, or not what was saved.
    """
    path = pathlib.Path(checkpointer.directory)
    where = f"{path}/{step}"
    try:
        found = checkpointer.checkpointables_metadata(step).custom_metadata
        _check_format(where, found["facts"])
        whole = found["seal"] == _seal(found)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"{where}/_CHECKPOINT_METADATA: damaged ({type(error).__name__}: {error}); "
            f"{_way_out(path, step)}"
        ) from error
    if not whole:
        raise UserError(
            f"{where}/_CHECKPOINT_METADATA: not what was saved (checksum); {_way_out(path, step)}"
        )
    return found


COMMIT_MARKER = "commit_success.txt"


def _out_of_space(error: BaseException | None) -> bool:
    words = ("No space left", "ENOSPC", "RESOURCE_EXHAUSTED", "Disk quota")
    while error is not None:
        if any(word in str(error) for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def _load(checkpointer, step: int, abstract: dict, metadata: dict) -> dict:
    """Arrays as `abstract` wants them, each checked against its checksum."""
    path = pathlib.Path(checkpointer.directory)
    where, help = f"{path}/{step}", _way_out(path, step)
    try:
        state = checkpointer.load_checkpointables(step, abstract)
    except Exception as error:
        raise UserError(f"{where}: cannot be read: {_reason(error)}; {help}") from error
    saved = metadata["checksums"]
    wrong = [name for name, value in checksums(state).items() if saved.get(name) != value]
    if wrong:
        raise UserError(f"{where}: {_some(wrong)}: not what was saved (checksum); {help}")
    return state


def _reason(error: BaseException) -> str:
    """The first cause of an error of Orbax, in which array and file are named."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error).strip().partition(" [tensorstore_spec")[0].splitlines()[0][:400]


@contextlib.contextmanager
def lock(run_dir: str | os.PathLike) -> Iterator[None]:
    """Holds a run directory for this process alone.

    Raises:
      UserError: another process holds it.
    """
    path = pathlib.Path(run_dir) / "lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise UserError(
                f"{run_dir}: another process is training here ({file.read().strip() or '?'}): wait "
                "for it, or use another --workdir"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def read_facts(run_dir: str | os.PathLike) -> dict:
    """The facts of a run's newest checkpoint; no array is read."""
    with ocp.training.Checkpointer(directory(run_dir)) as reader:
        there = steps(directory(run_dir))
        if not there:
            raise UserError(f"{directory(run_dir)}: has no checkpoint")
        return _metadata(reader, there[-1])["facts"]


def load_config(run_dir: str | os.PathLike) -> ModelConfig:
    """The model of a run's newest checkpoint."""
    return ModelConfig(**read_facts(run_dir)["model"])


def base_facts(run_dir: str | os.PathLike, parent: str | os.PathLike, frozen: dict) -> dict:
    """Where the weights under an adapter are, and their fingerprint."""
    here, there = pathlib.Path(run_dir).absolute(), pathlib.Path(parent).absolute()
    return {
        "path": str(there),
        "relative": os.path.relpath(there, here),
        "digest": params_fingerprint(frozen),
    }


def _check_format(where: str, facts: dict) -> None:
    if facts.get("format") != FORMAT:
        raise UserError(
            f"{where}: a checkpoint of format {facts.get('format')}, this version reads {FORMAT}: "
            "convert it with the version that wrote it (--to=huggingface, or --to=peft), and load "
            "what that gives"
        )


def _base_params(run_dir, base: dict, config: ModelConfig, mesh) -> tuple[dict, str]:
    """The weights under a run's adapter, and the checkpoint that has them, as peft needs it.

    That is the parent, or where the parent is a run with an adapter, what that one lies on.

    Raises:
      UserError: the parent is gone, or is not what the adapter was trained on.
    """
    places = [pathlib.Path(run_dir).absolute() / base["relative"], pathlib.Path(base["path"])]
    parent = next((place for place in places if place.is_dir()), None)
    if parent is None:
        raise UserError(
            f"{run_dir}: holds an adapter on the weights of {base['path']}, which is not there: "
            f"put them back, or beside it as {base['relative']}"
        )
    name = os.path.normpath(parent)
    if directory(parent).is_dir():
        theirs, params, facts = load_params(parent, mesh=mesh)
        name = facts["base"] if theirs.lora_rank and facts["base"] else name
    else:
        from msm_jax.weights.huggingface import load_checkpoint

        params = load_checkpoint(parent, config.param_dtype, mesh)[1]
    frozen = as_dtype(without_adapter(params), config.param_dtype)
    if params_fingerprint(frozen) != base["digest"]:
        raise UserError(
            f"{parent}: its weights are not those that the adapter of {run_dir} was trained on"
        )
    return frozen, name


def _recorded_base(run_dir: str | os.PathLike) -> str | None:
    """The checkpoint that the adapter in a run of `save` lies on."""
    file = pathlib.Path(run_dir) / "config.json"
    return read_json(file).get("base") if file.exists() else None


def as_dtype(params: dict, dtype: str) -> dict:
    """Weights in another dtype, one after another; those that have it stay as they are."""
    cast = functools.partial(jax.jit, donate_argnums=0)(lambda leaf: leaf.astype(dtype))
    return jax.tree.map(lambda leaf: leaf if leaf.dtype == dtype else cast(leaf), params)


def _abstract(leaf, sharding=None, dtype=None):
    sharding = sharding or getattr(leaf, "sharding", None)
    return jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=sharding)


def model_facts(config: ModelConfig) -> dict:
    """The config as checkpoints and config.json carry it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def load_params(run_dir: str | os.PathLike, step: int | None = None, mesh=None):
    """(ModelConfig, params, metadata) of a run's newest checkpoint, or of one of its steps.

    The params lie on the first device, or cut by a mesh as `param_shardings` says. Among the
    metadata is base: of an adapter, the directory of the checkpoint it lies on, or None.

    Raises:
      UserError: no such run or checkpoint, or one that is not what was saved.
    """
    path = directory(run_dir)
    if not path.is_dir():
        raise UserError(
            f"{run_dir}: has no checkpoints; give a run directory, as `train` writes it"
        )
    _refuse_uncommitted(path)
    with ocp.training.Checkpointer(path) as reader:
        there = steps(path)
        if not there or (step is not None and step not in there):
            wanted = "" if step is None else f" of step {step}"
            raise UserError(f"{path}: has no checkpoint{wanted}; there are {there}")
        step = there[-1] if step is None else step
        metadata = _metadata(reader, step)
        config = ModelConfig(**metadata["facts"]["model"])
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = abstract_params(config)
        places = param_shardings(config, mesh) if mesh else jax.tree.map(lambda _: here, shapes)
        abstract, base = jax.tree.map(_abstract, shapes, places), metadata.get("base")
        abstract = only_adapter(abstract) if base else abstract
        params = _load(reader, step, {"params": abstract}, metadata)["params"]
    name = _recorded_base(run_dir)
    if base:
        frozen, name = _base_params(run_dir, base, config, mesh)
        params = join(frozen, params)
    facts = {"step": step, **metadata["facts"], **metadata["progress"], "base": name}
    return config, params, facts
