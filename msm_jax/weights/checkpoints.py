"""Run checkpoints by Orbax; a kill at any moment leaves the previous checkpoint complete.

A checkpoint holds params, the optimizer's state, a checksum of every array and, as JSON: facts
(what a run has to match to resume from it, among them the model), progress (what the run resumes
with), made_by (its versions), and base (of an adapter that was trained on a parent's weights: where
the parent is; such a checkpoint holds the adapter alone). The seal is a checksum of that JSON.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import math
import os
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from msm_jax import files, limits, links, schema
from msm_jax.errors import UserError
from msm_jax.model import ModelConfig, abstract_params, param_shardings
from msm_jax.model.adapter import join, only_adapter, without_adapter
from msm_jax.weights.damage import (
    COMMIT_MARKER,
    METADATA,
    causes,
    damage_error,
    differences,
    reason,
    refuse_not_finite,
    shortened,
    steps,
    way_out,
)
from msm_jax.weights.dtypes import as_stored
from msm_jax.weights.fingerprint import checksums, named_leaves, params_fingerprint
from msm_jax.weights.huggingface import load_checkpoint

# 2: weights outputs first; 3: the optimizer counts skipped steps; 4: checksums see every position
FORMAT = 4
DAMAGED = ".damaged"  # ends the name of a checkpoint that a run went on without
_PROGRESS = {"tokens": int, "loss_tokens": int, "empty": int, "probes": {str: object}, "done": bool}
# What the metadata holds, apart from its seal.
_FORM = {
    "facts": {str: object},
    "progress": {f"{name}?": form for name, form in _PROGRESS.items()},
    "made_by": {str: object},
    "checksums": {str: int},
    "base": ({"path": str, "relative": str, "digest": str}, None),
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOTCONN)


def directory(run_dir: str | os.PathLike) -> pathlib.Path:
    """The directory of a run's checkpoints."""
    return pathlib.Path(run_dir).absolute() / "checkpoints"


class CheckpointManager:
    """Saves and restores the checkpoints of one run; made by `checkpointer`."""

    def __init__(self, path: pathlib.Path, keep: int, keep_steps: Sequence[int]):
        self.directory = path
        self._keep, self._keep_steps = keep, frozenset(keep_steps)
        self._written: tuple[int, str, dict] | None = None  # step, seal and shapes; not verified
        self.base: dict | None = None  # of the checkpoint that was restored

    @functools.cached_property
    def _orbax(self) -> Any:
        """Made for the first save: it reads the metadata of all checkpoints, damaged or not, and
        deletes what a killed process left of a save. Older checkpoints are deleted by `wait`."""
        try:
            return ocp.training.Checkpointer(self.directory, cleanup_tmp_directories=True)
        except Exception as error:
            for step in steps(self.directory):
                try:
                    ocp.checkpointables_metadata(self.directory / str(step))
                except Exception as wrong:
                    raise damage_error(self.directory, step, str(wrong), METADATA) from error
            raise

    def close(self) -> None:
        """Wait for what is being written, whether it succeeds or not."""
        if "_orbax" in vars(self):
            self._orbax.close()

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
        """Write the state after `step` steps, complete or not at all; every process has to call it.

        Returns when the arrays have been copied; the files are written while training continues,
        and an error of the writing is raised by the next `save`, `saved` or `wait`. An empty
        optimizer state is left out. All but the trees of arrays are JSON, as in the module's
        docstring; `base` is from `base_facts`, if `params` hold an adapter only.
        """
        self.wait()
        state = {"params": params}
        if jax.tree.leaves(optimizer_state):
            state["optimizer"] = optimizer_state
        metadata = {
            "facts": {"format": FORMAT, **facts},
            "progress": progress,
            "made_by": made_by or {},
            "checksums": checksums(state),
            "base": base,
        }
        metadata = json.loads(json.dumps(metadata, allow_nan=False))
        metadata["seal"] = files.seal(metadata)
        with self._errors(f"the checkpoint of step {step}"):
            self._orbax.save_checkpointables_async(
                step, state, force=True, custom_metadata=metadata
            )
        self._written = step, metadata["seal"], _shapes(state)

    def saved(self) -> int | None:
        """The step of the last `save`, once, when it is committed and was read back. UserError if
        it cannot be read back; earlier checkpoints are kept."""
        # Several processes have to wait at the same step, because each waits for the others.
        if not self._written or jax.process_count() > 1 or self._orbax.is_saving_in_progress():
            return None
        return self.wait()

    def wait(self) -> int | None:
        """Wait until the last `save` is committed; returns and raises as `saved`."""
        if self._written is None:
            return None
        with self._errors("a checkpoint"):
            self._orbax.wait()
        (step, seal, shapes), self._written = self._written, None
        self._check_readable(step, seal, shapes)
        if jax.process_index() == 0:
            committed = steps(self.directory)
            for old in sorted({*committed[: -self._keep]} - self._keep_steps):
                # Without its marker it is no checkpoint, even if a kill interrupts the deletion.
                files.delete(self.directory / str(old) / COMMIT_MARKER, self.directory)
                with contextlib.suppress(OSError):
                    files.delete(self.directory / str(old), self.directory)
        return step

    def _check_readable(self, step: int, seal: str, shapes: dict) -> None:
        """The shapes, dtypes and metadata on the disk are those that were saved."""
        stored = {}
        with contextlib.suppress(Exception):  # the arrays without a shape are named below
            stored = _shapes(self._orbax.checkpointables_metadata(step).metadata)
        lost = [name for name, shape in shapes.items() if stored.get(name) != shape]
        if lost or _metadata(self.directory, step)["seal"] != seal:
            raise UserError(
                f"{self.directory / str(step)}: was written and cannot be read back: "
                f"{shortened(lost) or 'its metadata'}; earlier checkpoints are kept: "
                f"{[s for s in steps(self.directory) if s != step]}; use another --workdir, with a "
                "plain name on a file system that keeps what is written"
            )

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """A file system that refuses as a UserError, wherever in Orbax it was noticed."""
        try:
            yield
        except Exception as error:
            text = "\n".join(map(str, causes(error)))
            refused = [os.strerror(each) for each in (*_FULL, *_REFUSED)]
            found = next((words for words in refused if words in text), None)
            if found is None and "RESOURCE_EXHAUSTED" not in text:
                raise
            full = found in refused[: len(_FULL)] or found is None
            cure = "free some space" if full else "make the directory writable"
            raise UserError(
                f"{self.directory}: {'no room for' if full else 'cannot write'} {what} "
                f"({found or 'RESOURCE_EXHAUSTED'}): {cure} and run the same command again; "
                "earlier checkpoints are complete"
            ) from error

    def restore(
        self, params: dict, optimizer_state: Any, facts: dict, fall_back: bool = False
    ) -> tuple[int, dict, Any, dict] | None:
        """The newest checkpoint as (step, params, optimizer state, progress), or None.

        The arguments are arrays or ShapeDtypeStructs that it has to match, on any mesh, and the
        facts of this run; UserError lists the facts that differ, or the damaged arrays. `fall_back`
        uses the newest checkpoint that can be read, and renames the damaged ones after it to
        STEP.damaged, so that their steps can be saved again.
        """
        self.wait()
        committed = steps(self.directory)
        abstract = jax.tree.map(_abstract, {"params": params, "optimizer": optimizer_state})
        for step in reversed(committed):
            try:
                metadata = _metadata(self.directory, step, resuming=True)
                changed = differences(metadata["facts"], {"format": FORMAT, **facts})
                state = {} if changed else _load(self.directory, step, abstract, metadata, True)
            except UserError:
                if fall_back and step != committed[0]:
                    continue
                raise
            if changed:
                raise UserError(
                    f"{self.directory}: the checkpoint of step {step} is another run's:\n"
                    + "".join(f"  {line}\n" for line in changed)
                    + "use another --workdir, or the configuration it was made with"
                )
            self._rename_damaged([other for other in committed if other > step])
            self.base = metadata["base"]
            return step, state["params"], state["optimizer"], metadata["progress"]
        return None

    def _rename_damaged(self, damaged: Sequence[int]) -> None:
        for step in damaged if jax.process_index() == 0 else ():
            names = (f"{step}{DAMAGED}", *(f"{step}{DAMAGED}.{n}" for n in range(2, 1000)))
            free = next(name for name in names if not (self.directory / name).exists())
            files.rename(self.directory / str(step), free)
        if damaged and jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are renamed")


@contextlib.contextmanager
def checkpointer(
    run_dir: str | os.PathLike, keep: int, keep_steps: Sequence[int] = ()
) -> Iterator[CheckpointManager]:
    """A `CheckpointManager` that keeps the newest `keep` checkpoints and those of `keep_steps`.

    When the block ends without an exception, it waits for the checkpoint that is being written.
    """
    path = directory(run_dir)
    links.below(path.parent, path.name)
    links.refuse_links(path)
    path.mkdir(parents=True, exist_ok=True)
    _refuse_uncommitted(path)
    manager = CheckpointManager(path, keep, keep_steps)
    try:
        yield manager
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to report
            manager.close()
        raise
    manager.wait()
    manager.close()


def _refuse_uncommitted(path: pathlib.Path) -> None:
    """Refuse a newest checkpoint without its commit marker, which Orbax would delete.

    Orbax writes the marker before a checkpoint gets its name, so such a directory was copied here
    incompletely. An older one is what a kill left of a checkpoint that was being deleted.
    """
    named = [step for step in path.iterdir() if links.is_step(step.name)]
    newest = max(named, key=lambda step: int(step.name), default=None)
    if newest is not None and not (newest / COMMIT_MARKER).exists():
        raise UserError(
            f"{newest}: has no {COMMIT_MARKER}, so it was not copied completely: copy it again "
            f"with all its files; or {way_out(path, int(newest.name))}"
        )


def _shapes(tree: Any) -> dict[str, tuple]:
    leaves = named_leaves(tree).items()
    return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in leaves}


def _abstract(leaf: Any, sharding: Any = None) -> jax.ShapeDtypeStruct:
    sharding = sharding or getattr(leaf, "sharding", None)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _metadata(path: pathlib.Path, step: int, resuming: bool = False) -> dict:
    """What `CheckpointManager.save` wrote; UserError for another format or damage."""
    damaged = functools.partial(damage_error, path, step, file=METADATA, resuming=resuming)
    try:
        text = limits.read_bytes(path / str(step) / METADATA, limits.JSON_BYTES)
        content = files.parse_json(text)
    except OSError as error:
        raise damaged(f"{error.strerror}") from error
    except ValueError as error:
        raise damaged(f"not JSON ({error})") from error
    problem = schema.mismatch(content, {"custom_metadata": {"facts": {str: object}}})
    found = {} if problem else content["custom_metadata"]
    if found and (format := found["facts"].get("format")) != FORMAT:
        raise UserError(
            f"{path}/{step}: a checkpoint of format {format}, this version reads {FORMAT}: convert "
            "it with the version that wrote it (--to=huggingface, or --to=peft), and load the "
            "result"
        )
    if problem := problem or schema.mismatch(found, _FORM):
        raise damaged(problem)
    if unknown := found["progress"].keys() - _PROGRESS.keys():
        raise damaged(f"progress has {sorted(unknown)!r:.100}")
    if "seal" not in found:
        warnings.warn(
            f"{path}/{step}: has no checksum of its model and settings, because an early version "
            "wrote it: a change of them would not be noticed",
            stacklevel=3,
        )
    elif found["seal"] != files.seal(found):
        raise damaged("not what was saved (checksum)")
    return found


def _model(path: pathlib.Path, step: int, facts: dict) -> ModelConfig:
    try:
        model = ModelConfig(**facts["model"])
        for field in dataclasses.fields(model):
            value = getattr(model, field.name)
            if field.type is int and (type(value) is not int or abs(value) > limits.DIMENSION):
                raise ValueError(f"{field.name} is {value!r:.100}")
            if field.type is float and not math.isfinite(value):
                raise ValueError(f"{field.name} is {value!r:.100}")
        if model.layers > limits.LAYERS:
            raise ValueError(f"it has more layers than {limits.LAYERS}")
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, UserError) as error:
        raise damage_error(path, step, f"its model is not valid ({error})", METADATA) from error
    return model


def _load(
    path: pathlib.Path,
    step: int,
    abstract: dict,
    metadata: dict,
    resuming: bool = False,
    partial: bool = False,
) -> dict:
    """Arrays with the shapes, dtypes and shardings of `abstract`, checked by their checksums; with
    `partial` the checkpoint has others as well."""
    damaged = functools.partial(damage_error, path, step, resuming=resuming)
    folder = path / str(step)
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    try:
        with context:
            state = ocp.load_checkpointables(folder, abstract)
    except Exception as error:
        raise damaged(reason(folder, error)) from error
    saved = metadata["checksums"]
    wrong = [name for name, value in checksums(state).items() if saved.get(name) != value]
    if wrong:
        raise damaged(f"{shortened(wrong)}: not what was saved (checksum)")
    return state


def read_facts(run_dir: str | os.PathLike) -> dict:
    """The facts of a run's newest checkpoint; no array is read."""
    path = directory(run_dir)
    if not (committed := steps(path)):
        raise UserError(f"{path}: has no checkpoint")
    facts = _metadata(path, committed[-1])["facts"]
    _model(path, committed[-1], facts)
    return facts


def load_config(run_dir: str | os.PathLike) -> ModelConfig:
    """The model of a run's newest checkpoint."""
    return ModelConfig(**read_facts(run_dir)["model"])


def model_facts(config: ModelConfig) -> dict:
    """The config as JSON, for checkpoints and config.json."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def base_facts(run_dir: str | os.PathLike, parent: str | os.PathLike, frozen: dict) -> dict:
    """Where the weights under an adapter are, and their fingerprint; JSON."""
    here, there = pathlib.Path(run_dir).absolute(), pathlib.Path(parent).absolute()
    return {
        "path": str(there),
        "relative": os.path.relpath(there, here),
        "digest": params_fingerprint(frozen),
    }


def load_params(
    run_dir: str | os.PathLike,
    step: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str | None = None,
) -> tuple[ModelConfig, dict, dict]:
    """The model of a run's newest checkpoint, or of the one of `step`.

    `dtype` is that of the weights, as of `load_checkpoint`, or None: as the run has them. They are
    converted one module at a time as they are read. UserError if there is none, or it or the base
    of its adapter is gone, damaged or another, or its weights are not finite.

    Returns:
      (config; params, on the first device or sharded by the mesh as `param_shardings` says; the
      checkpoint's facts and progress in one dict, with "step", and as "base" the path of the
      checkpoint that an adapter was trained on, or None).
    """
    path = directory(run_dir)
    if not path.is_dir():
        raise UserError(
            f"{run_dir}: has no checkpoints; give a run directory, as `train` writes it"
        )
    _refuse_uncommitted(path)
    committed = steps(path)
    if not committed or (step is not None and step not in committed):
        wanted = "" if step is None else f" of step {step}"
        raise UserError(f"{path}: has no checkpoint{wanted}; there are {committed}")
    step = committed[-1] if step is None else step
    metadata = _metadata(path, step)
    config, base = _model(path, step, metadata["facts"]), metadata["base"]
    shapes = jax.tree.map(_abstract, abstract_params(config), param_shardings(config, mesh))
    shapes = only_adapter(shapes) if base else shapes
    wanted = config.stored_as(dtype) if dtype else config
    params: dict = {}
    for some in [shapes] if base or wanted.param_dtype == config.param_dtype else _modules(shapes):
        part = _load(path, step, {"params": some}, metadata, partial=some is not shapes)["params"]
        refuse_not_finite(f"{path}/{step}", part)
        params = join(params, as_stored(wanted, part))
    settings = pathlib.Path(run_dir) / "config.json"
    name = files.read_object(settings, optional=True).get("base")
    if base:
        frozen, name = _base_params(run_dir, base, config, mesh)
        params = join(as_stored(wanted, frozen), params)
    return wanted, params, {"step": step, **metadata["facts"], **metadata["progress"], "base": name}


def _modules(tree: dict) -> Iterator[dict]:
    """Parts of a tree that join to it, each with the leaves of one module."""
    if own := {name: leaf for name, leaf in tree.items() if not isinstance(leaf, dict)}:
        yield own
    for name, inner in tree.items():
        if isinstance(inner, dict):
            yield from ({name: part} for part in _modules(inner))


def _base_params(
    run_dir: str | os.PathLike, base: dict, config: ModelConfig, mesh: jax.sharding.Mesh | None
) -> tuple[dict, str]:
    """The weights under a run's adapter, and the path of their checkpoint for adapter_config.json.

    That is the parent's, or the one under it where the parent is itself a run with an adapter.
    """
    # The run itself, not a link to it, is where its relative path begins.
    places = [pathlib.Path(run_dir).resolve() / base["relative"], pathlib.Path(base["path"])]
    parent = next((place for place in places if place.is_dir()), None)
    if parent is None:
        raise UserError(
            f"{run_dir}: holds an adapter on the weights of {base['path']}, which is not there: "
            f"put them back, or beside it as {base['relative']}"
        )
    name = os.path.normpath(parent)
    if directory(parent).is_dir():
        theirs, params, facts = load_params(parent, mesh=mesh, dtype=config.param_dtype)
        name = facts["base"] if theirs.lora_rank and facts["base"] else name
    else:
        params = load_checkpoint(parent, config.param_dtype, mesh)[1]
    frozen = without_adapter(params)
    if params_fingerprint(frozen) != base["digest"]:
        raise UserError(
            f"{parent}: its weights are not those that the adapter of {run_dir} was trained on"
        )
    return frozen, name
