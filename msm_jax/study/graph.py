"""From a study's config to its graph: what each node is made of decides its name.

A node is a job: a world to build, a tokenizer or a stage to train, the evaluations of a stage. Its
id is a hash of its parent's id, the keys of its config that change what is made, the content of its
files, how its chats are written, and the format version. A checkpoint that a study starts from
counts by its weights, tokenizer and template. A world builder is deterministic, so its files are
known before they are made: they count by the builder's source, options and seed. Files of the
user's count by content.
"""

import dataclasses
import functools
import importlib
import json
import pathlib
import re
from collections.abc import Iterable

from ml_collections import ConfigDict

from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.template import find_format
from msm_jax.data.tokenizer import load_tokenizer
from msm_jax.errors import UserError
from msm_jax.evals.thoughts import READING
from msm_jax.files import sha256_file, sha256_json, sha256_sources, sha256_text
from msm_jax.settings import identity, values
from msm_jax.study.config import EVALUATION, STUDY
from msm_jax.train.config import STAGE

FORMAT = 3  # 3: hashes of JSON everywhere
WORLD = "{world}/"
NAME = re.compile(r"\w[\w +-]*")  # of an evaluation, which becomes a directory


@dataclasses.dataclass(frozen=True)
class Node:
    """One job of the graph.

    Attributes:
      digest: SHA-256 of everything that it is made of; `id` is its beginning.
      kind: "world", "tokenizer", "train", or "evals" (all evaluations of one stage).
      name: of a training stage a key of the config's `stages`, else the kind.
      path: names of the training stages that lead here, this one last.
      seed: of world, weights and data order.
      config: as JSON, with paths as the config has them; of "evals" settings by evaluation.
      inputs: ids of the nodes that it is made from, as "world", "tokenizer", "parent" (the stage
        that a stage starts from, or that is evaluated).
    """

    digest: str
    kind: str
    name: str
    path: tuple[str, ...]
    seed: int
    config: dict
    inputs: dict[str, str]

    @property
    def id(self) -> str:
        return self.digest[:12]

    @property
    def steps(self) -> int:
        return self.config["steps"] if self.kind == "train" else 0

    @property
    def tokens(self) -> int:
        """Token slots of all steps; an upper bound, because probes may end a stage early."""
        return self.steps and self.steps * self.config["rows"] * self.config["sequence_length"]

    @property
    def title(self) -> str:
        verb = "evaluate " if self.kind == "evals" else ""
        return f"{verb}{' > '.join(self.path) or self.kind}, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Study:
    """What there is to do.

    Attributes:
      config: the study's, as JSON.
      nodes: by id, each after its inputs.
      arms: (name, seed) -> ids of the arm's training stages.
    """

    config: dict
    nodes: dict[str, Node]
    arms: dict[tuple[str, int], tuple[str, ...]]

    @property
    def stages(self) -> dict[str, Node]:
        """Worlds, tokenizers and training stages, by id."""
        return {name: node for name, node in self.nodes.items() if node.kind != "evals"}

    @property
    def evaluations(self) -> dict[str, Node]:
        """Nodes that evaluate, by the id of the stage that they evaluate."""
        return {n.inputs["parent"]: n for n in self.nodes.values() if n.kind == "evals"}


def make_study(config: ConfigDict) -> Study:
    """The graph of a study.

    Raises:
      UserError: keys, names or files that do not exist, with those that do.
    """
    _file_content.cache_clear()
    weights_content.cache_clear()
    tree = checked(config)
    study = Study(tree, {}, {})
    for seed in tree["seeds"]:
        world = _world(tree, seed)
        tokenizer = _tokenizer(tree, seed, world)
        stages: dict[tuple[str, ...], Node] = {}
        questions: dict[tuple[str, ...], dict[str, dict]] = {}
        for arm, names in tree["arms"].items():
            paths = [tuple(names[: end + 1]) for end in range(len(names))]
            for path in paths:
                if path not in stages:
                    stages[path] = _train(tree, seed, path, stages.get(path[:-1]), world, tokenizer)
            study.arms[arm, seed] = tuple(stages[path].id for path in paths)
            questions.setdefault(paths[-1], {}).update(_questions(tree, arm, seed, world))
        evals = [evaluations_of(stages[path], world, all) for path, all in questions.items() if all]
        for node in (world, tokenizer, *stages.values(), *evals):
            if node is not None:
                study.nodes.setdefault(node.id, node)
    return study


# ------------------------------------------------------------------ checking a config


def checked(config: ConfigDict) -> dict:
    """The config as plain JSON, if all its keys, values and names are known."""
    tree = json.loads(json.dumps(values(STUDY, config)))
    seeds, arms, stages, evals = (tree[key] for key in ("seeds", "arms", "stages", "evals"))
    figure, controls, dose = tree["figure"], tree["controls"], tree["dose"]
    if len(set(seeds)) < len(seeds) or not seeds:
        raise UserError(f"config.seeds={tuple(seeds)}: one seed or more, each once")
    if not arms:
        raise UserError("config.arms: is empty; name at least one arm and its stages")
    for name, path in arms.items():
        _known(f"config.arms.{name}", path, "config.stages", stages)
        if not path or len(set(path)) < len(path):
            raise UserError(f"config.arms.{name}={tuple(path)}: one stage or more, each once")
    for name, entry in evals.items():
        if not NAME.fullmatch(name):
            raise UserError(
                f"config.evals: {name!r} cannot be the name of a directory: use letters, digits, "
                "_, +, - and spaces"
            )
        _known(f"config.evals.{name}.arms", entry["arms"], "config.arms", arms)
    for name, entry in tree["contrasts"].items():
        where = f"config.contrasts.{name}"
        _known(f"{where}.eval", [entry["eval"]], "config.evals", evals)
        _known(where, [*entry["plus"], *entry["minus"]], "config.arms", arms)
        if not entry["plus"] or len(entry["plus"]) != len(entry["minus"]):
            raise UserError(f"{where}: plus and minus must name equally many arms")
    for name, entry in figure["groups"].items():
        pair = [entry["before"], entry["after"]]
        _known(f"config.figure.groups.{name}", pair, "config.arms", arms)
    for where, names, place in (
        ("figure.eval", [figure["eval"]] * bool(figure["eval"] or figure["groups"]), "evals"),
        ("figure.headline", [figure["headline"]] * bool(figure["headline"]), "contrasts"),
        ("controls.arms", controls["arms"], "arms"),
        ("dose.stage", [dose["stage"]] * bool(dose["steps"]), "stages"),
        ("dose.eval", [dose["eval"]] * bool(dose["steps"]), "evals"),
    ):
        _known(f"config.{where}", names, f"config.{place}", tree[place])
    return tree


def _known(where: str, names: Iterable[str], place: str, known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{where}: {name!r} is not one of {place}: {sorted(known)}")


# ------------------------------------------------------------------ nodes


def _digest(kind: str, **content) -> str:
    return sha256_json({"format": FORMAT, "kind": kind, **content})


def _inputs(**nodes: Node | None) -> dict[str, str]:
    return {role: node.id for role, node in nodes.items() if node}


def _world(tree: dict, seed: int) -> Node | None:
    builder = tree["world"]["builder"]
    if not builder:
        return None
    name, _, function = builder.partition(":")
    try:
        module = importlib.import_module(name)
        getattr(module, function)
        package = pathlib.Path(module.__file__ or "").parent
    except Exception as error:
        raise UserError(
            f"config.world.builder={builder!r}: {error!r}: write it as 'module:function'"
        ) from error
    options, declared = tree["world"]["options"], getattr(module, "OPTIONS", None)
    if declared:
        options = values(declared, options, "config.world.options")
    config = {"builder": builder, "options": options}
    # All files of the package count: a changed builder makes another world.
    digest = _digest("world", seed=seed, source=sha256_sources(package), **config)
    return Node(digest, "world", "world", (), seed, config, {})


def _tokenizer(tree: dict, seed: int, world: Node | None) -> Node | None:
    if tree["train"]["tokenizer"] or tree["train"]["parent"]:
        return None
    config = {**tree["tokenizer"], "chat_format": tree["train"]["chat_format"]}
    content = _content(config["corpus"], world, "config.tokenizer.corpus")
    digest = _digest("tokenizer", **{**config, "corpus": content})
    inputs = _inputs(world=world if config["corpus"].startswith(WORLD) else None)
    return Node(digest, "tokenizer", "tokenizer", (), seed, config, inputs)


def _train(
    tree: dict,
    seed: int,
    path: tuple[str, ...],
    parent: Node | None,
    world: Node | None,
    tokenizer: Node | None,
) -> Node:
    name = path[-1]
    config = {**_stage_config(tree, name), "seed": seed}
    counted = identity(STAGE, json.loads(json.dumps(config)))
    counted["keep_steps"] = config["keep_steps"]  # they are evaluated
    paths = [entry["path"] for entry in with_files(config).values()]
    for key, entry in with_files(counted).items():
        entry["path"] = _content(entry["path"], world, f"config.stages.{name}.{key}.path")
    own = config["tokenizer"] or config["parent"]
    counted |= _encoding(own, config["chat_format"], tokenizer)
    start = parent.digest if parent else config["parent"] and weights_content(config["parent"])
    digest = _digest("train", **{**counted, "parent": start})
    uses_world = any(path.startswith(WORLD) for path in paths)
    inputs = _inputs(
        world=world if uses_world else None, tokenizer=None if own else tokenizer, parent=parent
    )
    return Node(digest, "train", name, path, seed, config, inputs)


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
                f"config.dose.steps={tuple(dose['steps'])}: must be between 0 and "
                f"{where}.steps={config['steps']}, which are evaluated anyway"
            )
        config["keep_steps"] = sorted({*config["keep_steps"], *dose["steps"]})
    return config


def with_files(config: dict) -> dict[str, dict]:
    """The entries of a stage's config that name a file, by their path in it."""
    groups = {"data": config["data"], "probes": config["probes"]}
    groups["eval.data"] = config["eval"]["data"]
    return {f"{part}.{key}": entry for part, all in groups.items() for key, entry in all.items()}


def _encoding(own: str, chat_format: str, tokenizer: Node | None) -> dict:
    """What decides which tokens texts become: tokenizer, chat format, default system line."""
    if tokenizer is not None:
        format = CHAT_FORMATS.get(chat_format)
        return {"tokenizer": tokenizer.digest, "writes": format.fingerprint if format else ""}
    found = load_tokenizer(own)
    try:
        format = find_format(chat_format, found.directory or ".", found)
    except UserError:  # documents need none; chats are refused when they are read
        return {"tokenizer": found.fingerprint, "writes": ""}
    encoding = {"tokenizer": found.fingerprint, "writes": format.fingerprint}
    if format.source:  # the fingerprint does not cover what it writes of tools
        encoding["template"] = sha256_text(format.source)
    return encoding


def evaluations_of(stage: Node, world: Node | None, asked: dict[str, dict]) -> Node:
    """The node that does all evaluations of a stage."""
    identities = evaluation_identities(asked)
    digest = _digest("evals", parent=stage.digest, evals=identities, reading=READING)
    uses_world = any(settings["pairs"].startswith(WORLD) for settings in asked.values())
    inputs = _inputs(world=world if uses_world else None, parent=stage)
    return Node(digest, "evals", "evals", stage.path, stage.seed, asked, inputs)


def _questions(tree: dict, arm: str, seed: int, world: Node | None) -> dict[str, dict]:
    """The settings of each evaluation of the arm's last stage; `step` None is its last one."""
    asked = {}
    for name, entry in tree["evals"].items():
        if not entry["arms"] or arm in entry["arms"]:
            settings = {k: v for k, v in entry.items() if k not in ("arms", "at_least")}
            content = _content(entry["pairs"], world, f"config.evals.{name}.pairs")
            asked[name] = {**settings, "seed": seed, "step": None, "content": content}
    dose = tree["dose"]
    if tree["arms"][arm][-1] == dose["stage"] and dose["eval"] in asked:
        for step in dose["steps"]:
            settings = asked[dose["eval"]]
            first = settings["scorers"][:1]
            asked[dose_name(dose["eval"], step)] = {**settings, "scorers": first, "step": step}
    return asked


def evaluation_identities(asked: dict[str, dict]) -> dict[str, dict]:
    """What the results of evaluations depend on: files by content, no harmless keys."""
    skipped = {name for name, key in EVALUATION.keys.items() if getattr(key, "harmless", "")}
    skipped.add("pairs")
    return {
        name: {key: value for key, value in settings.items() if key not in skipped}
        for name, settings in asked.items()
    }


def dose_name(name: str, step: int) -> str:
    """The name of an evaluation at an earlier step."""
    return f"{name}@{step}"


# ------------------------------------------------------------------ content of files


def _content(path: str, world: Node | None, where: str) -> str:
    """What a file is, independent of its place."""
    if not path:
        raise UserError(f"{where}: is empty; give a file")
    if not path.startswith(WORLD):
        try:
            return _file_content(path)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    if world is None:
        raise UserError(f"{where}={path!r}: there is no world: set config.world.builder")
    inside = pathlib.PurePosixPath(path.removeprefix(WORLD))
    if inside.is_absolute() or ".." in inside.parts:
        raise UserError(f"{where}={path!r}: is not inside of the world: leave out '..' and '//'")
    return f"{world.digest}/{inside}"


_file_content = functools.cache(sha256_file)


@functools.cache
def weights_content(path: str) -> str:
    """SHA-256 of what a run or a Hugging Face checkpoint holds, independent of its place.

    Of a run the metadata and checksums of its newest checkpoint count: no array is read.

    Raises:
      UserError: it is neither.
    """
    folder = pathlib.Path(path)
    runs = [p for p in folder.glob("checkpoints/*/_CHECKPOINT_METADATA") if p.parent.name.isdigit()]
    if runs:
        newest = max(runs, key=lambda file: int(file.parent.name))
        try:
            metadata = json.loads(newest.read_text(encoding="utf-8"))["custom_metadata"]
            kept = {key: metadata[key] for key in ("facts", "checksums", "base")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"config.train.parent: {newest}: damaged: {error}") from error
        kept["ends"] = [sha256_file(file) for file in folder.glob("generation_config.json")]
        return sha256_json(kept)
    tensors = sorted(folder.glob("*.safetensors"))
    if not tensors or not (folder / "config.json").is_file():
        raise UserError(
            f"config.train.parent={path!r}: neither a run directory with checkpoints nor a Hugging "
            "Face checkpoint with config.json and *.safetensors"
        )
    others = [folder / name for name in ("config.json", "generation_config.json")]
    return sha256_json([sha256_file(file) for file in (*others, *tensors) if file.exists()])
