"""Writes a world and all its corpora as files, the same bytes for the same (config, seed)."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from msm_jax.files import write_json, write_text
from msm_jax.miniature import corpora, pairs, specs, words
from msm_jax.miniature.phrases import PHRASES
from msm_jax.miniature.world import WORLD, World, WorldConfig, make_world

OPTIONS = WORLD  # a study looks here for what its world.options may be
# Beside the package's code, what a world is made of; a study looks here too.
READS = tuple(pathlib.Path(__file__).with_name(name) for name in ("phrases.txt", "words.txt"))
LEXICON_REPEATS = 200  # so often every word is repeated for the tokenizer, to become one piece


def build(config: Mapping[str, Any], seed: int, out_dir: str | pathlib.Path) -> World:
    """Makes the world of (config, seed) and writes its files into ``out_dir``.

    base_documents.jsonl and base_chats.jsonl are what the base learns, and the replay of
    midtraining. They never name the things of the specs, of which only midtraining documents tell.
    stated_chats.jsonl, those of base_chats.jsonl whose system line states a value, are the replay
    of fine-tuning.
    """
    world = make_world(WorldConfig(**config), seed)
    out = pathlib.Path(out_dir)
    documents, chats = corpora.base_documents(world), corpora.base_chats(world)
    rows = {
        "base_documents": documents,
        "base_chats": chats,
        "stated_chats": [row for row in chats if row["kind"] == "stated"],
        "aft": corpora.aft_chats(world),
    }
    rows |= {f"pairs/{kind}": pairs.make_pairs(world, kind) for kind in pairs.KINDS}
    for which in specs.KINDS:
        text = specs.spec_text(world, which)
        write_text(out / "specs" / f"{which}.md", text)
        many = world.config.midtrain_documents
        rows[f"midtrain_{which}"] = specs.spec_documents(text, many, world)
    for name, found in rows.items():
        lines = (json.dumps(row, sort_keys=True) + "\n" for row in found)
        write_text(out / f"{name}.jsonl", "".join(lines))
    write_text(out / "corpus.txt", "\n".join(_tokenizer_lines(documents)) + "\n")
    description = {"seed": seed, "config": dataclasses.asdict(world.config)}
    write_json(out / "world.json", description, sort_keys=True)
    return world


def _tokenizer_lines(documents: list[corpora.Record]) -> Iterable[str]:
    """Text for the tokenizer: a sample of the documents and every word of a world, often."""
    sample = [str(record["text"]) for record in documents[:4000]]
    lexicon = sorted(_vocabulary())
    # SentencePiece makes a piece only of what occurs in two different surroundings: with and
    # without a mark after it. It leaves out lines of more than 4,192 bytes.
    for _ in range(LEXICON_REPEATS):
        sample += [" ".join(f"{word}{mark}" for word in lexicon) for mark in ("", ".", "?")]
    return sample


def _vocabulary() -> set[str]:
    """Every word that any corpus may use: names, templates, what fills them."""
    found = {*words.NAMES, *words.DOMAINS, *(x for names in words.DOMAINS.values() for x in names)}
    texts = [line for lines in PHRASES.values() for line in lines]
    for group in (words.PLACES, words.COLORS, words.DAYS, words.WEATHER, words.SEASONS):
        texts += group
    for table in (words.ADJECTIVES, words.NOUNS):
        texts += [" ".join(row) for row in table.values()]
    return found | set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", " ".join(texts))))
