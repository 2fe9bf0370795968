"""What a run writes down about itself: config.json, and what its checkpoints have to match."""

import json
import os
import pathlib
import platform
from typing import Any

import jax
from ml_collections import ConfigDict

from msm_jax import __version__
from msm_jax.data.sources import source_hash
from msm_jax.data.template import find_format
from msm_jax.data.tokenizer import HF_TOKENIZER_FILE, TOKENIZER_FILE, Tokenizer, tokenizer_file
from msm_jax.errors import UserError
from msm_jax.files import copy, sha256_text, write_bytes, write_json
from msm_jax.links import real_path
from msm_jax.provenance import code_version, library_versions
from msm_jax.settings import identity
from msm_jax.train.config import STAGE
from msm_jax.train.stage import CHATS, Stage
from msm_jax.weights import checkpoints
from msm_jax.weights.export import KEPT_CONFIG, carried, hf_settings


def facts(stage: Stage) -> dict[str, Any]:
    """What a checkpoint has to match for the run to resume; the parent's weights are added later.

    Files count by content, their names do not; what follows from a key takes its place.
    """
    contents, (chats, _) = stage.data.contents, stage.chats
    found = identity(STAGE, json.loads(stage.config.to_json()))
    found |= {
        "model": checkpoints.model_facts(stage.model),
        "tokenizer": stage.tokenizer.fingerprint,
        "chat_format": _format_facts(stage.config.chat_format, stage.tokenizer),
        CHATS: chats,
        "steps": stage.steps,
    }
    found["data"] = {name: found["data"][name] | contents[name] for name in contents}
    others = [*found["eval"]["data"].values(), *found["probes"].values()]
    for entry in others:
        entry["content"] = source_hash(entry["path"])
    for entry in (*found["data"].values(), *others):
        del entry["path"]
    return found


def _format_facts(name: str, tokenizer: Tokenizer) -> dict[str, str]:
    try:
        format = find_format(name, tokenizer.directory or ".", tokenizer)
    except UserError:  # documents need none
        return {"name": name}
    source = sha256_text(format.source) if format.source else ""
    return {"name": name, "writes": format.fingerprint, "template": source}


def provenance(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Versions and layout: to read, not to match."""
    return {
        "code": code_version(),
        **library_versions(),
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "mesh": dict(mesh.shape),
        "processes": jax.process_count(),
    }


def tokenizer_files(config: ConfigDict) -> tuple[pathlib.Path, str, list[str]]:
    """The tokenizer's file, its name in a run, and the names of the files that go with it.

    Raises:
      UserError: one of them is a link out of the directory that the config names.
    """
    named = config.tokenizer or config.parent
    source = tokenizer_file(named)
    if source != pathlib.Path(named):
        real_path(source.parent, source.name)
    kept = HF_TOKENIZER_FILE if source.suffix == ".json" else TOKENIZER_FILE
    return source, kept, [n for n in carried(source.parent) if n not in (source.name, kept)]


def write_config(run: pathlib.Path, stage: Stage, facts: dict) -> None:
    """config.json, with absolute paths, and the tokenizer with its settings beside it.

    So a run can be moved or published. Called after `facts` were compared with the checkpoint that
    the run resumes from, if there is one.
    """
    config = stage.config
    source, kept, others = tokenizer_files(config)
    write_bytes(run / kept, source.read_bytes())
    for name in others:
        copy(source.parent, name, run / name)
    if known := hf_settings(source.parent):
        write_json(run / KEPT_CONFIG, known)
    record = json.loads(config.to_json())
    record |= {
        "tokenizer": os.path.abspath(config.tokenizer or config.parent),
        "resolved_model": facts["model"],
        "tokenizer_sha256": facts["tokenizer"],
        "identity": facts,
        "corpora": stage.data.accounts,
        "versions": {"msm_jax": __version__, **provenance(stage.mesh)},
    }
    write_json(run / "config.json", record, sort_keys=True)
