"""What a run writes down about itself: config.json, and what its checkpoints have to match."""

import functools
import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess

import jax

from msm_jax import __version__, strict_json
from msm_jax.data.pipeline import Data
from msm_jax.data.sources import source_hash
from msm_jax.data.template import find_format
from msm_jax.data.tokenizer import HF_TOKENIZER_FILE, TOKENIZER_FILE, tokenizer_file
from msm_jax.errors import UserError
from msm_jax.settings import identity
from msm_jax.train.config import STAGE
from msm_jax.weights import checkpoints
from msm_jax.weights.export import CARRIED, KEPT_CONFIG, hf_settings


@functools.cache
def code_version() -> str:
    """Version, commit where there is one, and a hash of the package's sources."""
    package = pathlib.Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    command = ["git", "-C", str(package), "rev-parse", "--short=12", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
        commit = found.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return " ".join(filter(None, [__version__, commit, f"sources {digest.hexdigest()[:12]}"]))


def facts(config, model, tokenizer, data: Data, steps: int, taught: dict | None) -> dict:
    """What a checkpoint has to agree with for the run to go on; the parent's weights come later.

    Files count by content, names of files do not; what follows from a key is in its place.
    """
    found = identity(STAGE, json.loads(config.to_json()))
    found |= {
        "model": checkpoints.model_facts(model),
        "tokenizer": tokenizer.fingerprint,
        "chat_format": _format_facts(config.chat_format, tokenizer),
        "taught": taught,
        "steps": steps,
    }
    found["data"] = {name: found["data"][name] | data.contents[name] for name in data.contents}
    for group in (found["eval"]["data"], found["probes"]):
        for entry in group.values():
            entry["content"] = source_hash(entry["path"])
    for entry in (
        *found["data"].values(),
        *found["eval"]["data"].values(),
        *found["probes"].values(),
    ):
        del entry["path"]
    return found


def _format_facts(name: str, tokenizer) -> dict:
    try:
        format = find_format(name, tokenizer.directory or ".", tokenizer)
    except UserError:  # documents need none
        return {"name": name}
    source = hashlib.sha256(format.source.encode()).hexdigest() if format.source else ""
    return {"name": name, "writes": format.fingerprint, "template": source}


def made_by(mesh) -> dict:
    """Versions and layout: to read, not to match."""
    return {
        "code": code_version(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "mesh": dict(mesh.shape),
        "processes": jax.process_count(),
    }


def write_config(run: pathlib.Path, config, facts: dict, data: Data, mesh) -> None:
    """config.json: everything that made this run, with absolute paths.

    Called when `facts` were compared with the checkpoint that is gone on from, if there is one.
    """
    record = json.loads(config.to_json())
    named = config.tokenizer or config.parent
    record["tokenizer"] = os.path.abspath(named)
    _copy_beside(tokenizer_file(named), run)
    record["resolved_model"] = facts["model"]
    record["tokenizer_sha256"] = facts["tokenizer"]
    record["identity"] = facts
    record["corpora"] = data.accounts
    record["versions"] = {"msm_jax": __version__, **made_by(mesh)}
    aside = run / "config.json.partial"
    text = strict_json.dumps(record, indent=1, sort_keys=True)
    aside.write_text(f"{text}\n", encoding="utf-8")
    os.replace(aside, run / "config.json")


def _copy_beside(source: pathlib.Path, run: pathlib.Path) -> None:
    """The tokenizer and what lies with it, so that a run can be moved or published."""
    names = {source.name: HF_TOKENIZER_FILE if source.suffix == ".json" else TOKENIZER_FILE}
    names |= {name: name for name in CARRIED if (source.parent / name).is_file()}
    for name, kept in names.items():
        aside = run / f"{kept}.partial"
        shutil.copyfile(source.parent / name, aside)
        os.replace(aside, run / kept)
    if known := hf_settings(source.parent):
        aside = run / f"{KEPT_CONFIG}.partial"
        aside.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        os.replace(aside, run / KEPT_CONFIG)
