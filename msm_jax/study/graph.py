"""From a study's config to its graph: what each node is made of decides its name.

A node is a job: a world to build, a corpus to generate, a tokenizer or a stage to train, the
evaluations of a stage. Its id is a hash of its parent's id, the keys of its config that change what
is made, the content of its files, how its chats are written, and the format version. The checkpoint
that a study starts from is a node, too, and counts by its weights, tokenizer and template. A world
builder is deterministic, so its files are known before they are made: they count by the builder's
source, options and seed; those of a corpus by its config and its spec. Files of the user's count by
content.
"""

import dataclasses
import json
import re
from collections.abc import Iterable

from ml_collections import ConfigDict

from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.tokenizer import load_tokenizer
from msm_jax.errors import UserError
from msm_jax.evals.thoughts import READING
from msm_jax.settings import identity, values
from msm_jax.study import contents
from msm_jax.study.config import EVALUATION, STUDY
from msm_jax.study.makers import content_of, made_nodes, makers
from msm_jax.study.node import Makers, Node, digest_of, inputs_of, with_files
from msm_jax.train.config import MODEL, STAGE

NAME = re.compile(r"\w[\w +-]*")  # of an arm or an evaluation, which becomes a directory
# Keys of config.train.model that have no meaning where the shape is the base's.
_SHAPE = ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width",
          "rope_theta", "norm_eps", "qk_norm", "qkv_bias", "tied_embeddings")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Study:
    """What there is to do.

    Attributes:
      config: the study's, as JSON.
      nodes: by id, each after its inputs.
      arms: (name, seed) -> ids of the arm's training stages, or of the base, if it has none.
    """

    config: dict
    nodes: dict[str, Node]
    arms: dict[tuple[str, int], tuple[str, ...]]

    @property
    def stages(self) -> dict[str, Node]:
        """Worlds, corpora, bases, tokenizers and training stages, by id."""
        return {name: node for name, node in self.nodes.items() if node.kind != "evals"}

    @property
    def before_training(self) -> "Study":
        """What can be done without training: worlds, corpora, bases and tokenizers."""
        kinds = ("world", "corpus", "base", "tokenizer")
        some = {name: node for name, node in self.nodes.items() if node.kind in kinds}
        return dataclasses.replace(self, nodes=some)

    @property
    def evaluations(self) -> dict[str, Node]:
        """Nodes that evaluate, by the id of the stage that they evaluate."""
        return {n.inputs["parent"]: n for n in self.nodes.values() if n.kind == "evals"}


def make_study(config: ConfigDict) -> Study:
    """The graph of a study.

    Raises:
      UserError: keys, names or files that do not exist, with those that do.
    """
    contents.forget()
    tree = checked(config)
    study = Study(tree, {}, {})
    for seed in tree["seeds"]:
        made = made_nodes(tree, seed)
        base = _base(tree, seed)
        tokenizer = _tokenizer(tree, seed, made)
        stages: dict[tuple[str, ...], Node] = {(): base} if base else {}
        questions: dict[tuple[str, ...], dict[str, dict]] = {}
        for arm, names in tree["arms"].items():
            paths = [tuple(names[: end + 1]) for end in range(len(names))]
            for path in paths:
                if path not in stages:
                    stages[path] = _train(tree, seed, path, stages.get(path[:-1]), made, tokenizer)
            study.arms[arm, seed] = tuple(stages[path].id for path in paths or [()])
            questions.setdefault(tuple(names), {}).update(_questions(tree, arm, seed, made))
        evals = [evaluations_of(stages[path], made, all) for path, all in questions.items() if all]
        for node in (*made.values(), tokenizer, *stages.values(), *evals):
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
    _check_base(tree)
    for name, path in arms.items():
        _known(f"config.arms.{name}", path, "config.stages", stages)
        if len(set(path)) < len(path):
            raise UserError(f"config.arms.{name}={tuple(path)}: a stage is there twice")
        if not path and not tree["base"]["path"]:
            raise UserError(
                f"config.arms.{name}=(): one stage or more, because there is no config.base that "
                "could be evaluated without training"
            )
    for place in ("arms", "corpora", "evals"):
        if wrong := [name for name in tree[place] if not NAME.fullmatch(name)]:
            raise UserError(
                f"config.{place}: {wrong[0]!r} cannot be the name of a directory: use letters, "
                "digits, _, +, - and spaces"
            )
    if "world" in tree["corpora"]:
        raise UserError("config.corpora.world: {world}/ is the seed's world: use another name")
    for name, entry in evals.items():
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


def _check_base(tree: dict) -> None:
    """Refuses what goes with a base only, or cannot go with it; fills in what it implies."""
    base, train = tree["base"], tree["train"]
    if train["parent"]:
        raise UserError(
            f"config.train.parent={train['parent']!r}: in a study this is config.base.path"
        )
    if base["adapter"] and not base["path"]:
        raise UserError("config.base.adapter: is set and config.base.path is not: set both")
    if not base["path"]:
        train["chat_format"] = train["chat_format"] or "compact"
        return
    if train["tokenizer"]:
        raise UserError("config.train.tokenizer: is the base's: leave it out")
    requested = base["chat_format"] = train["chat_format"]
    train["chat_format"] = contents.find_base(base["path"], base["adapter"], requested).chat_format


def _known(where: str, names: Iterable[str], place: str, known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{where}: {name!r} is not one of {place}: {sorted(known)}")


# ------------------------------------------------------------------ nodes


def _base(tree: dict, seed: int) -> Node | None:
    """The checkpoint that the arms start from; one per seed, because each seed evaluates it."""
    config = tree["base"]
    if not config["path"]:
        return None
    found = contents.find_base(config["path"], config["adapter"], config["chat_format"])
    digest = digest_of("base", seed=seed, content=found.content, **found.encoding)
    return Node(digest, "base", "base", (), seed, {**config, "content": found.content}, {})


def _tokenizer(tree: dict, seed: int, made: Makers) -> Node | None:
    if tree["train"]["tokenizer"] or tree["base"]["path"]:
        return None
    config = {**tree["tokenizer"], "chat_format": tree["train"]["chat_format"]}
    content = content_of(config["corpus"], made, "config.tokenizer.corpus")
    digest = digest_of("tokenizer", **{**config, "corpus": content})
    inputs = inputs_of(**makers([config["corpus"]], made))
    return Node(digest, "tokenizer", "tokenizer", (), seed, config, inputs)


def _train(
    tree: dict,
    seed: int,
    path: tuple[str, ...],
    parent: Node | None,
    made: Makers,
    tokenizer: Node | None,
) -> Node:
    name = path[-1]
    config = {**_stage_config(tree, name), "seed": seed}
    counted = identity(STAGE, json.loads(json.dumps(config)))
    counted["keep_steps"] = config["keep_steps"]  # they are evaluated
    if config["model"]["preset"] == "parent":
        counted["model"] = {k: v for k, v in counted["model"].items() if k not in _SHAPE}
    paths = [entry["path"] for entry in with_files(config).values()]
    for key, entry in with_files(counted).items():
        where = f"config.stages.{name}.{key}.path"
        entry["path"] = content_of(entry["path"], made, where, contents.source_content)
    counted |= _encoding(tree, tokenizer)
    digest = digest_of("train", **{**counted, "parent": parent and parent.digest})
    inputs = inputs_of(**makers(paths, made), tokenizer=tokenizer, parent=parent)
    return Node(digest, "train", name, path, seed, config, inputs)


def _stage_config(tree: dict, name: str) -> dict:
    """Defaults, then `train`, then the stage's own keys."""
    own, where = tree["stages"][name], f"config.stages.{name}"
    for key in ("seed", "parent", "tokenizer", "chat_format"):
        if key in own:
            raise UserError(
                f"{where}.{key}: is the same in all stages; set seeds, arms, base or train"
            )
    config = json.loads(json.dumps(STAGE.fill(tree["train"], own)))
    if not config["data"]:
        raise UserError(f"{where}.data: is empty; name a source: data.NAME.path")
    if tree["base"]["path"] and config["model"]["preset"] in ("", "parent"):
        config["model"]["preset"] = "parent"
        plain = MODEL.fill()
        given = [key for key in _SHAPE if config["model"][key] != plain[key]]
        if given:
            raise UserError(f"{where}.model.{given[0]}: is the base's: leave it out of the config")
    dose = tree["dose"]
    if name == dose["stage"] and dose["steps"]:
        if not all(0 < step < (config["steps"] or step + 1) for step in dose["steps"]):
            raise UserError(
                f"config.dose.steps={tuple(dose['steps'])}: must be between 0 and "
                f"{where}.steps={config['steps']}, which are evaluated anyway"
            )
        config["keep_steps"] = sorted({*config["keep_steps"], *dose["steps"]})
    return config


def _encoding(tree: dict, tokenizer: Node | None) -> dict:
    """What decides which tokens texts become."""
    base, chat_format = tree["base"], tree["train"]["chat_format"]
    if tokenizer is not None:
        format = CHAT_FORMATS.get(chat_format)
        return {"tokenizer": tokenizer.digest, "writes": format.fingerprint if format else ""}
    if base["path"]:
        return contents.find_base(base["path"], base["adapter"], base["chat_format"]).encoding
    return contents.encoding(load_tokenizer(tree["train"]["tokenizer"]), chat_format)


def evaluations_of(stage: Node, made: Makers, asked: dict[str, dict]) -> Node:
    """The node that does all evaluations of a stage."""
    identities = evaluation_identities(asked)
    digest = digest_of("evals", parent=stage.digest, evals=identities, reading=READING)
    pairs = [settings["pairs"] for settings in asked.values()]
    inputs = inputs_of(**makers(pairs, made), parent=stage)
    return Node(digest, "evals", "evals", stage.path, stage.seed, asked, inputs)


def _questions(tree: dict, arm: str, seed: int, made: Makers) -> dict[str, dict]:
    """The settings of each evaluation of the arm's last stage; `step` None is its last one."""
    asked = {}
    for name, entry in tree["evals"].items():
        if not entry["arms"] or arm in entry["arms"]:
            settings = {k: v for k, v in entry.items() if k not in ("arms", "at_least")}
            content = content_of(entry["pairs"], made, f"config.evals.{name}.pairs")
            asked[name] = {**settings, "seed": seed, "step": None, "content": content}
    dose = tree["dose"]
    if tree["arms"][arm][-1:] == [dose["stage"]] and dose["eval"] in asked:
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
