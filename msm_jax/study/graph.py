"""From a study's config to its stages: what each one is made of decides its name.

A stage's id is a hash of its parent's id, the keys of its config that change what is made, the
content of its files, how its chats are written, and the format version. A checkpoint that a study
starts from counts by its weights, tokenizer and template. A world builder is deterministic, so its
files are known before they are made: they are addressed by the builder's source, options and seed.
Files of the user's count by content.
"""

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import json
import pathlib

from ml_collections import ConfigDict

from msm_jax.corpus.records import file_hash
from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.template import find_format
from msm_jax.data.tokenizer import load_tokenizer
from msm_jax.errors import UserError
from msm_jax.settings import identity, values
from msm_jax.study.config import EVALUATION, STUDY
from msm_jax.train.config import STAGE

FORMAT = 2  # 2: parents count by content, keys that change nothing do not count
WORLD = "{world}/"
KINDS = ("world", "tokenizer", "train")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One node of the graph.

    Attributes:
      digest: of everything that it is made of; `id` is its beginning.
      kind: one of KINDS.
      name: in the config; of "train" stages a key of `stages`.
      path: names of the training stages that lead here, this one last.
      seed: of world, weights and data order.
      config: as JSON, with paths as the config has them.
      world, tokenizer, parent: ids of the stages it is made from, "" where there is none.
    """

    digest: str
    kind: str
    name: str
    path: tuple[str, ...]
    seed: int
    config: dict
    world: str = ""
    tokenizer: str = ""
    parent: str = ""

    @property
    def id(self) -> str:
        return self.digest[:12]

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(name for name in (self.world, self.tokenizer, self.parent) if name)

    @property
    def steps(self) -> int:
        return self.config["steps"] if self.kind == "train" else 0

    @property
    def tokens(self) -> int:
        """Token slots of all steps; an upper bound, because probes may end a stage early."""
        return (
            self.steps * self.config["rows"] * self.config["sequence_length"] if self.steps else 0
        )

    @property
    def title(self) -> str:
        return f"{' > '.join(self.path) or self.kind}, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Study:
    """What there is to do.

    Attributes:
      config: the study's, as JSON.
      stages: by id, each after what it needs.
      arms: (name, seed) -> ids of the arm's training stages.
      questions: stage id -> {name of the evaluation: its settings}.
    """

    config: dict
    stages: dict[str, Stage]
    arms: dict[tuple[str, int], tuple[str, ...]]
    questions: dict[str, dict[str, dict]]


def make_study(config: ConfigDict) -> Study:
    """The graph of a study.

    Raises:
      UserError: keys, names or files that do not exist, with those that do.
    """
    tree = checked(config)
    study = Study(tree, {}, {}, {})
    for seed in tree["seeds"]:
        world, tokenizer = _world(tree, seed), _tokenizer(tree, seed)
        for arm, path in tree["arms"].items():
            stages = _chain(tree, seed, path, world, tokenizer)
            for stage in (world, tokenizer, *stages):
                if stage is not None:
                    study.stages.setdefault(stage.id, stage)
            study.arms[arm, seed] = tuple(stage.id for stage in stages)
            asked = study.questions.setdefault(stages[-1].id, {})
            asked.update(_questions(tree, arm, seed, world))
    return dataclasses.replace(study, questions={k: v for k, v in study.questions.items() if v})


# ------------------------------------------------------------------ checking a config


def checked(config: ConfigDict) -> dict:
    """The config as plain JSON, if all its keys, values and names are known."""
    tree = json.loads(json.dumps(values(STUDY, config)))
    if len(set(tree["seeds"])) < len(tree["seeds"]) or not tree["seeds"]:
        raise UserError(f"config.seeds={tuple(tree['seeds'])}: one seed or more, each once")
    if not tree["arms"]:
        raise UserError("config.arms: is empty; name at least one arm and its stages")
    for arm, path in tree["arms"].items():
        _known(path, tree["stages"], f"config.arms.{arm}", "config.stages")
        if not path or len(set(path)) < len(path):
            raise UserError(f"config.arms.{arm}={tuple(path)}: one stage or more, each once")
    _check_names(tree)
    return tree


def _check_names(tree: dict) -> None:
    """Every name of an arm, stage, evaluation or contrast is one that exists."""
    arms, evals, figure = tree["arms"], tree["evals"], tree["figure"]
    for name, entry in tree["evals"].items():
        _known(entry["arms"], arms, f"config.evals.{name}.arms", "config.arms")
    for name, entry in tree["contrasts"].items():
        where = f"config.contrasts.{name}"
        _known([entry["eval"]], evals, f"{where}.eval", "config.evals")
        _known([*entry["plus"], *entry["minus"]], arms, where, "config.arms")
        if not entry["plus"] or len(entry["plus"]) != len(entry["minus"]):
            raise UserError(f"{where}: plus and minus must name equally many arms")
    for name, entry in figure["groups"].items():
        _known([entry["before"], entry["after"]], arms, f"config.figure.groups.{name}", "arms")
    if figure["eval"] or figure["groups"]:
        _known([figure["eval"]], evals, "config.figure.eval", "config.evals")
    if figure["headline"]:
        _known([figure["headline"]], tree["contrasts"], "config.figure.headline", "contrasts")
    _known(tree["controls"]["arms"], arms, "config.controls.arms", "config.arms")
    if tree["dose"]["steps"]:
        _known([tree["dose"]["stage"]], tree["stages"], "config.dose.stage", "config.stages")
        _known([tree["dose"]["eval"]], evals, "config.dose.eval", "config.evals")


def _known(names, known, where: str, place: str) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{where}: {name!r} is not one of {place}: {sorted(known)}")


# ------------------------------------------------------------------ stages


def _world(tree: dict, seed: int) -> Stage | None:
    builder = tree["world"]["builder"]
    if not builder:
        return None
    source = _source_hash(builder)
    config = {"builder": builder, "options": _options(builder, tree["world"]["options"])}
    digest = _digest({**config, "kind": "world", "seed": seed, "source": source})
    return Stage(digest, "world", "world", (), seed, config)


def _options(builder: str, given: dict) -> dict:
    """Checked, if the builder's module has their form as OPTIONS."""
    name, _, function = builder.partition(":")
    try:
        module = importlib.import_module(name)
        getattr(module, function)
    except Exception as error:
        raise UserError(f"config.world.builder={builder!r}: {error!r}") from error
    declared = getattr(module, "OPTIONS", None)
    return values(declared, given, "config.world.options") if declared else given


def _source_hash(builder: str) -> str:
    """Of all Python files of the builder's package: a changed builder makes another world."""
    module, colon, _ = builder.partition(":")
    try:
        spec = importlib.util.find_spec(module) if colon else None
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.origin:
        raise UserError(
            f"config.world.builder={builder!r}: no such function; write it as 'module:function'"
        )
    return source_hash(pathlib.Path(spec.origin).parent)


def source_hash(package: pathlib.Path) -> str:
    """SHA-256 of the Python files below a directory."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()} {file_hash(file)}\n".encode())
    return digest.hexdigest()


def _tokenizer(tree: dict, seed: int) -> Stage | None:
    if tree["train"]["tokenizer"] or tree["train"]["parent"]:
        return None
    config = {**tree["tokenizer"], "chat_format": tree["train"]["chat_format"]}
    world = _world(tree, seed)
    address = _address(config["corpus"], world, "config.tokenizer.corpus")
    digest = _digest({**config, "kind": "tokenizer", "corpus": address})
    uses_world = config["corpus"].startswith(WORLD)
    return Stage(
        digest, "tokenizer", "tokenizer", (), seed, config, world.id if world and uses_world else ""
    )


def _chain(tree, seed, path, world, tokenizer) -> list[Stage]:
    """The training stages of an arm."""
    stages: list[Stage] = []
    for name in path:
        parent = stages[-1] if stages else None
        stages.append(_train(tree, seed, name, parent, world, tokenizer))
    return stages


def _train(tree, seed, name, parent, world, tokenizer) -> Stage:
    config = _stage_config(tree, name)
    config["seed"] = seed
    where = f"config.stages.{name}"
    addressed = identity(STAGE, json.loads(json.dumps(config)))
    addressed["keep_steps"] = config["keep_steps"]  # they are evaluated
    paths = [entry["path"] for entry in with_files(config).values()]
    for key, entry in with_files(addressed).items():
        entry["path"] = _address(entry["path"], world, f"{where}.{key}.path")
    own = config["tokenizer"] or config["parent"]
    addressed |= _words(own, config["chat_format"], tokenizer)
    begins = parent.digest if parent else config["parent"] and weights_content(config["parent"])
    digest = _digest({**addressed, "kind": "train", "parent": begins})
    return Stage(
        digest,
        "train",
        name,
        (*(parent.path if parent else ()), name),
        seed,
        config,
        world.id if any(path.startswith(WORLD) for path in paths) else "",
        "" if own else tokenizer.id,
        parent.id if parent else "",
    )


def with_files(config: dict) -> dict[str, dict]:
    """The entries of a stage's config that name a file, by their path in it."""
    groups = {
        "data": config["data"],
        "probes": config["probes"],
        "eval.data": config["eval"]["data"],
    }
    return {f"{part}.{key}": entry for part, all in groups.items() for key, entry in all.items()}


def _words(own: str, chat_format: str, tokenizer: Stage | None) -> dict:
    """Which tokens texts become, and how chats are written, their default system line included."""
    if tokenizer is not None:
        format = CHAT_FORMATS.get(chat_format)
        return {"tokenizer": tokenizer.digest, "writes": format.fingerprint if format else ""}
    found = load_tokenizer(own)
    try:
        format = find_format(chat_format, found.directory or ".", found)
    except UserError:  # documents need none; chats are refused when they are read
        return {"tokenizer": found.fingerprint, "writes": ""}
    words = {"tokenizer": found.fingerprint, "writes": format.fingerprint}
    if format.source:  # what it writes of tools, say, the fingerprint does not see
        words["template"] = hashlib.sha256(format.source.encode()).hexdigest()
    return words


@functools.cache
def weights_content(path: str) -> str:
    """SHA-256 of what a run or a Hugging Face checkpoint holds, wherever it lies.

    Of a run it is that of its newest checkpoint's facts and checksums: no array is read.

    Raises:
      UserError: it is neither.
    """
    folder = pathlib.Path(path)
    runs = [p for p in folder.glob("checkpoints/*/_CHECKPOINT_METADATA") if p.parent.name.isdigit()]
    if runs:
        newest = max(runs, key=lambda file: int(file.parent.name))
        try:
            said = json.loads(newest.read_text(encoding="utf-8"))["custom_metadata"]
            kept = {key: said[key] for key in ("facts", "checksums", "base")}
            kept["ends"] = [file_hash(file) for file in folder.glob("generation_config.json")]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"config.train.parent: {newest}: damaged: {error}") from error
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise UserError(
            f"config.train.parent={path!r}: neither a run directory with checkpoints nor a Hugging "
            "Face checkpoint with config.json and *.safetensors"
        )
    others = [folder / name for name in ("config.json", "generation_config.json")]
    text = "".join(file_hash(file) for file in (*others, *files) if file.exists())
    return hashlib.sha256(text.encode()).hexdigest()


def _stage_config(tree: dict, name: str) -> dict:
    """Defaults, then `train`, then the stage's own keys."""
    own, where = tree["stages"][name], f"config.stages.{name}"
    for key in ("seed", "parent", "tokenizer", "chat_format"):
        if key in own:
            raise UserError(f"{where}.{key}: is the same in all stages; set seeds, arms or train")
    config = json.loads(json.dumps(STAGE.fill(tree["train"], own)))
    if not config["data"]:
        raise UserError(f"{where}.data: is empty; name a source: data.NAME.path")
    dose = tree["dose"]
    if name == dose["stage"] and dose["steps"]:
        if not all(0 < step < config["steps"] for step in dose["steps"]):
            raise UserError(
                f"config.dose.steps={tuple(dose['steps'])}: must lie between 0 and "
                f"{where}.steps={config['steps']}, which are there anyway"
            )
        config["keep_steps"] = sorted({*config["keep_steps"], *dose["steps"]})
    return config


def _questions(tree: dict, arm: str, seed: int, world: Stage | None) -> dict[str, dict]:
    """What is asked of the arm's last stage."""
    asked = {}
    for name, entry in tree["evals"].items():
        if not entry["arms"] or arm in entry["arms"]:
            settings = {k: v for k, v in entry.items() if k not in ("arms", "at_least")}
            content = _address(entry["pairs"], world, f"config.evals.{name}.pairs")
            place = world.id if world and entry["pairs"].startswith(WORLD) else ""
            settings |= {"seed": seed, "step": None, "world": place, "content": content}
            asked[name] = settings
    dose = tree["dose"]
    if tree["arms"][arm][-1] == dose["stage"] and dose["eval"] in asked:
        for step in dose["steps"]:
            settings = asked[dose["eval"]]
            first = settings["scorers"][:1]
            asked[dose_name(dose["eval"], step)] = {**settings, "scorers": first, "step": step}
    return asked


def identities(asked: dict[str, dict]) -> dict[str, dict]:
    """Of questions, what their answers depend on: files by content, no harmless keys."""
    harmless = {name for name, key in EVALUATION.keys.items() if getattr(key, "harmless", "")}
    passed = harmless | {"pairs"}
    return {
        name: {key: value for key, value in settings.items() if key not in passed}
        for name, settings in asked.items()
    }


def dose_name(name: str, step: int) -> str:
    """An evaluation of a checkpoint on the way."""
    return f"{name}@{step}"


def _address(path: str, world: Stage | None, where: str) -> str:
    """What a file is, wherever it lies."""
    if not path:
        raise UserError(f"{where}: is empty; give a file")
    if not path.startswith(WORLD):
        try:
            return file_hash(path)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    if world is None:
        raise UserError(f"{where}={path!r}: there is no world: set config.world.builder")
    return f"{world.digest}/{path.removeprefix(WORLD)}"


def _digest(content: dict) -> str:
    text = json.dumps({"format": FORMAT, **content}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
