"""From a study's config to its graph: what each node is made of decides its name.

A node is a job: a world to build, a corpus to generate, a tokenizer or a stage to train, the
evaluations of a stage, the verdicts of a judge that is another model. Its id is a hash of its
parent's id, the keys of its config that change what is made, the content of its files, how its
chats are written, and the format version. The checkpoint that a study starts from is a node, too,
and counts by its weights, tokenizer and template. A world builder is deterministic, so its files
are known before they are made: they count by the builder's source, options and seed; those of a
corpus by its config and its spec. Files of the user's count by content.
"""

import dataclasses
import json

from ml_collections import ConfigDict

from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.tokenizer import load_tokenizer
from msm_jax.errors import UserError
from msm_jax.evals.thoughts import READING
from msm_jax.settings import check_names, identity, values
from msm_jax.study import contents, design, evaluations, sweep
from msm_jax.study.config import STUDY
from msm_jax.study.evaluations import NAME
from msm_jax.study.makers import content_of, made_nodes, makers
from msm_jax.study.node import Makers, Node, digest_of, inputs_of, with_files
from msm_jax.train.config import EIGHT_BITS, MODEL, STAGE

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
        return {n: node for n, node in self.nodes.items() if node.kind not in ("evals", "judge")}

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

    @property
    def judges(self) -> dict[tuple[str, str], Node]:
        """Nodes that judge, by the id of the stage that they judge and the evaluation's name."""
        judges = (node for node in self.nodes.values() if node.kind == "judge")
        return {(node.inputs["parent"], node.name): node for node in judges}


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
        for arm, names in tree["arms"].items():
            paths = [tuple(names[: end + 1]) for end in range(len(names))]
            for path in paths:
                if path not in stages:
                    stages[path] = _train(tree, seed, path, stages.get(path[:-1]), made, tokenizer)
            study.arms[arm, seed] = tuple(stages[path].id for path in paths or [()])
        asked = evaluations.asked_of(tree)
        evals = [
            evaluations_of(tree, seed, stages[path], made, mine) for path, mine in asked.items()
        ]
        judges = [judge for node in evals for judge in judges_of(node, stages[node.path])]
        for node in (*made.values(), tokenizer, *stages.values(), *evals, *judges):
            if node is not None:
                study.nodes.setdefault(node.id, node)
    return study


# ------------------------------------------------------------------ checking a config


def complete(config: ConfigDict) -> dict:
    """The config as plain JSON, with its sweep and without `without`; names are not checked."""
    return design.without(sweep.expanded(json.loads(json.dumps(values(STUDY, config)))))


def checked(config: ConfigDict) -> dict:
    """As `complete`, if all names and files exist and the parts of the config fit together."""
    tree = complete(config)
    seeds, arms = tree["seeds"], tree["arms"]
    if len(set(seeds)) < len(seeds) or not seeds:
        raise UserError(f"config.seeds={tuple(seeds)}: one seed or more, each once")
    if not arms:
        raise UserError("config.arms: is empty; name at least one arm and its stages")
    for place in ("arms", "corpora", "evals"):
        if wrong := [name for name in tree[place] if not NAME.fullmatch(name)]:
            raise UserError(
                f"config.{place}: {wrong[0]!r} cannot be the name of a directory: use letters, "
                "digits, spaces and _ . = + -"
            )
    check_names(STUDY, tree)
    _check_base(tree)
    for name, path in arms.items():
        if len(set(path)) < len(path):
            raise UserError(f"config.arms.{name}={tuple(path)}: a stage is there twice")
        if not path and not tree["base"]["path"]:
            raise UserError(
                f"config.arms.{name}=(): one stage or more, because there is no config.base that "
                "could be evaluated without training"
            )
    if "world" in tree["corpora"]:
        raise UserError("config.corpora.world: {world}/ is the seed's world: use another name")
    evaluations.check(tree)
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


# ------------------------------------------------------------------ nodes


def _base(tree: dict, seed: int) -> Node | None:
    """The checkpoint that the arms start from; one per seed, because each seed evaluates it.

    Where the arms are trained on its weights in 8 bits, it is evaluated in 8 bits as well.
    """
    config, dtype = tree["base"], tree["train"]["model"]["param_dtype"]
    if not config["path"]:
        return None
    found = contents.find_base(config["path"], config["adapter"], config["chat_format"])
    rounded = {"dtype": dtype} if dtype in EIGHT_BITS else {}
    digest = digest_of("base", seed=seed, content=found.content, **found.encoding, **rounded)
    settings = {**config, "content": found.content, **rounded}
    return Node(digest, "base", "base", (), seed, settings, {})


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
    config = {**stage_config(tree, name), "seed": seed}
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


def stage_config(tree: dict, name: str) -> dict:
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
    if name in dose["stages"] and dose["steps"]:
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


def evaluations_of(
    tree: dict, seed: int, stage: Node, made: Makers, asked: dict[str, tuple[str, int | None]]
) -> Node:
    """The node that asks everything of a stage: name -> the evaluation, and after which step."""
    read = lambda path, where: content_of(path, made, where, contents.source_or_file)
    config = {
        name: evaluations.settings_of(tree, eval, seed, step, read)
        for name, (eval, step) in asked.items()
    }
    identities = {name: evaluations.samples_identity(each) for name, each in config.items()}
    for name, settings in config.items():
        if not evaluations.is_deferred(settings):
            identities[name]["verdicts"] = evaluations.verdicts_identity(settings)
    digest = digest_of("evals", parent=stage.digest, evals=identities, reading=READING)
    paths = [path for settings in config.values() for _, path in evaluations.paths_of(settings)]
    inputs = inputs_of(**makers(paths, made), parent=stage)
    return Node(digest, "evals", "evals", stage.path, stage.seed, config, inputs)


def judges_of(evals: Node, stage: Node) -> list[Node]:
    """The nodes of judges that are other models, which need the samples and not the stage."""
    found = []
    for name, settings in evals.config.items():
        if evaluations.is_deferred(settings):
            made_of = {
                "parent": stage.digest,
                "name": name,
                "samples": evaluations.samples_identity(settings),
                "verdicts": evaluations.verdicts_identity(settings),
            }
            if settings["judge_checkpoint"]:
                made_of["checkpoint"] = contents.weights_content(settings["judge_checkpoint"])
            digest, inputs = digest_of("judge", reading=READING, **made_of), {**evals.inputs}
            inputs["evals"] = evals.id
            found.append(Node(digest, "judge", name, stage.path, stage.seed, settings, inputs))
    return found
