"""The nodes that make files for others: a seed's world, and corpora.

Their files are known before they are made, so that what follows from them has a name: they count by
the node that makes them and their name in it.
"""

import importlib
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from msm_jax.corpus.config import GENERATE
from msm_jax.data.tokenizer import load_tokenizer
from msm_jax.errors import UserError
from msm_jax.files import sha256_file, sha256_sources
from msm_jax.settings import identity, values
from msm_jax.study import contents
from msm_jax.study.node import Makers, Node, digest_of, inputs_of

WORLD = "world"  # {world}/... is a file of the seed's world
# What a corpus makes, by its `make`.
CORPUS_FILES = {
    "documents": ("documents.jsonl",),
    "neutral": ("documents.jsonl",),
    "chats": ("chats.jsonl", "chats_no_reasoning.jsonl"),
    "mix": ("chats.jsonl",),
    "spec": ("spec.md",),
}


def made_nodes(tree: dict, seed: int) -> dict[str, Node]:
    """The nodes that make files: the seed's world, and all corpora, each after its inputs."""
    world = _world(tree, seed)
    made = {} if world is None else {"world": world}
    waiting = list(tree["corpora"])
    while waiting:
        used = lambda name: contents.made_names(corpus_paths(tree["corpora"][name]).values())
        ready = [name for name in waiting if used(name).isdisjoint(waiting)]
        if not ready:
            raise UserError(f"config.corpora: {sorted(waiting)} are made from each other's files")
        made |= {name: _corpus(name, tree["corpora"][name], seed, made) for name in ready}
        waiting = [name for name in waiting if name not in ready]
    return made


def _corpus(name: str, config: dict, seed: int, made: Makers) -> Node:
    """What `generate` makes of its config and of the content of what that names."""
    from msm_jax.corpus.run import check_config

    where = f"config.corpora.{name}"
    try:
        check_config(ConfigDict(config))
    except UserError as error:
        raise UserError(str(error).replace("config.", f"{where}.", 1)) from error
    counted = identity(GENERATE, config)
    for key, path in corpus_paths(config).items():
        content = content_of(path, made, f"{where}.{key}", contents.source_or_file)
        put(counted, key.split("."), content)
    if counted["tokenizer"]:
        counted["tokenizer"] = load_tokenizer(counted["tokenizer"]).fingerprint
    for role in ("writer", "critic"):
        if counted[role]["kind"] == "local":
            counted[role]["model"] = contents.weights_content(counted[role]["model"])
    inputs = inputs_of(**makers(corpus_paths(config).values(), made))
    return Node(digest_of("corpus", **counted), "corpus", name, (), seed, config, inputs)


def corpus_paths(config: dict) -> dict[str, str]:
    """The files that a corpus is made from, by their key."""
    found = {"spec.path": config["spec"]["path"], "neutral.match": config["neutral"]["match"]}
    if config["make"] in ("neutral", "mix"):
        del found["spec.path"]
    found |= {f"mix.sources.{name}": path for name, path in config["mix"]["sources"].items()}
    return {key: path for key, path in found.items() if path}


def put(config: dict, path: Sequence[str], value: Any) -> None:
    """Set the key at a path; groups that are missing on the way are added."""
    for name in path[:-1]:
        config = config.setdefault(name, {})
    config[path[-1]] = value


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
    # A changed builder makes another world: all Python files of its package count, and the other
    # files that it says it reads.
    reads = [sha256_file(path) for path in getattr(module, "READS", ())]
    more = {"reads": reads} if reads else {}
    digest = digest_of("world", seed=seed, source=sha256_sources(package), **more, **config)
    return Node(digest, "world", "world", (), seed, config, {})


# ------------------------------------------------------------------ content of files


def content_of(
    path: str, made: Makers, where: str, read: Callable[[str], str] = contents.file_content
) -> str:
    """What a file is, independent of its place; `read` is of those that the study does not make."""
    if not path:
        raise UserError(f"{where}: is empty; give a file")
    found = contents.made_path(path)
    if found is None:
        try:
            return read(path)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    node = made.get(found.name)
    if node is None and found.name == WORLD:
        raise UserError(f"{where}={path!r}: there is no world: set config.world.builder")
    if node is None:
        raise UserError(f"{where}={path!r}: {found.name!r} is not one of config.corpora")
    inside = pathlib.PurePosixPath(found.inside)
    if inside.is_absolute() or ".." in inside.parts:
        raise UserError(
            f"{where}={path!r}: is not inside of the {found.name}: leave out '..' and '//'"
        )
    makes = node.kind == "corpus" and CORPUS_FILES[node.config["make"]]
    if makes and inside.suffix in (".jsonl", ".md") and str(inside) not in makes:
        raise UserError(f"{where}={path!r}: that corpus makes {' and '.join(makes)}")
    return f"{node.digest}/{inside}"


def makers(paths: Iterable[str], made: Makers) -> dict[str, Node]:
    """Role -> the nodes that make some of these paths."""
    return {role_of(name): made[name] for name in sorted(contents.made_names(paths))}


def role_of(name: str) -> str:
    """The role, in `Node.inputs`, of the node whose files are named "{name}/..."."""
    return name if name == WORLD else f"corpora.{name}"
