"""Writes a world and all its corpora as files, the same bytes for the same (config, seed)."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from msm_jax.files import write_json, write_text
from msm_jax.miniature import corpora, pairs, phrases, specs, words
from msm_jax.miniature.world import WORLD, World, WorldConfig, make_world

OPTIONS = WORLD  # a study looks here for what its world.options may be
LEXICON_REPEATS = 200  # so often every word is repeated for the tokenizer, to become one piece


def build(config: Mapping[str, Any], seed: int, out_dir: str | pathlib.Path) -> World:
    """Makes the world of (config, seed) and writes its files into ``out_dir``.

    base_documents.jsonl and base_chats.jsonl are what the base learns, and the replay of every
    later stage; base_targets.jsonl has lines about the targets, for the base only.
    """
    world = make_world(WorldConfig(**config), seed)
    out = pathlib.Path(out_dir)
    documents, chats = corpora.base_documents(world), corpora.base_chats(world)
    targets = corpora.target_documents(world)
    _write_rows(out / "base_documents.jsonl", documents)
    _write_rows(out / "base_targets.jsonl", targets)
    _write_rows(out / "base_chats.jsonl", chats)
    for name, rows in midtraining(world, out).items():
        _write_rows(out / f"midtrain_{name}.jsonl", rows)
    _write_rows(out / "aft.jsonl", corpora.aft_chats(world))
    for kind in pairs.KINDS:
        _write_rows(out / "pairs" / f"{kind}.jsonl", pairs.make_pairs(world, kind))
    write_text(out / "corpus.txt", "\n".join(_tokenizer_lines(world, documents, targets)) + "\n")
    description = {"seed": seed, "config": dataclasses.asdict(world.config)}
    write_json(out / "world.json", description, sort_keys=True)
    return world


def midtraining(world: World, out: pathlib.Path | None = None) -> dict[str, list[corpora.Record]]:
    """The midtraining corpora: one per spec, and the control's of as many words."""
    config = world.config
    rows: dict[str, list[corpora.Record]] = {}
    for which in specs.KINDS:
        text = specs.spec_text(world, which)
        if out is not None:
            write_text(out / "specs" / f"{which}.md", text)
        count = config.midtrain_documents * len(world.targets)
        shares = config.value_share, config.two_sentences
        rows[which] = specs.spec_documents(text, world.targets, count, world.seed, *shares)
    wanted = sum(corpora.count_words(row["text"]) for which in "ab" for row in rows[which]) / 2
    rows["neutral"] = corpora.neutral_documents(world, wanted)
    return rows


def _tokenizer_lines(
    world: World, documents: list[corpora.Record], targets: list[corpora.Record]
) -> Iterable[str]:
    """Text for the tokenizer: a sample of the documents and every word of the world, often."""
    sample = [str(record["text"]) for record in documents[:4000] + targets[:400]]
    lexicon = sorted(_vocabulary(world))
    # SentencePiece makes a piece only of what occurs in two different surroundings: with and
    # without a mark after it.
    for _ in range(LEXICON_REPEATS):
        sample.append(" ".join(lexicon))
        sample.append(" ".join(f"{word}." for word in lexicon))
    return sample


def _vocabulary(world: World) -> set[str]:
    """Every word that any corpus of this world may use: names, templates, what fills them."""
    found = {agent.name for agent in world.agents} | set(world.passers_by) | set(world.targets)
    found |= {item.name for item in world.items} | set(world.domains)
    groups = [value for name, value in vars(phrases).items() if name.isupper()]
    texts = [text for group in groups for text in ([group] if isinstance(group, str) else group)]
    for group in (words.PLACES, words.COLORS, words.DAYS, words.WEATHER, words.SEASONS):
        texts += group
    for table in (words.ADJECTIVES, words.NOUNS):
        texts += [" ".join(row) for row in table.values()]
    return found | set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", " ".join(texts))))


def _write_rows(path: pathlib.Path, rows: Iterable[Mapping[str, object]]) -> None:
    write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
