"""A corpus from its config: the work behind `python -m msm_jax.generate`."""

import pathlib
from collections.abc import Callable, Collection
from typing import Any

from ml_collections import ConfigDict

from msm_jax import files
from msm_jax.corpus import estimate, manifest, tfds_sets
from msm_jax.corpus.backends import Generate, make_backend, price_of
from msm_jax.corpus.chats import Chats, without_reasoning
from msm_jax.corpus.config import GENERATE
from msm_jax.corpus.derive import derive_spec
from msm_jax.corpus.documents import Documents
from msm_jax.corpus.instruction_mix import instruction_mix
from msm_jax.corpus.neutral import make_neutral, wanted_tokens
from msm_jax.corpus.records import write_array_record, write_parquet
from msm_jax.corpus.steps import Corpus
from msm_jax.corpus.writers import Journal, Writer
from msm_jax.corpus.writers.journal import FILE
from msm_jax.errors import UserError
from msm_jax.settings import checked
from msm_jax.spec import Spec, estimated_tokens, load_spec, report_text, spec_report

Say = Callable[[str], None]

NO_WRITER = """config.writer.kind is not set: name who writes
  openai     any server that speaks OpenAI's protocol. Yours, such as `vllm serve MODEL`,
             `llama-server -m MODEL.gguf` or `transformers serve`: --config.writer.kind=openai
             --config.writer.model=MODEL --config.writer.base_url=http://localhost:8000/v1
             OpenAI's: the same without base_url, with OPENAI_API_KEY in the environment
  anthropic  --config.writer.kind=anthropic --config.writer.model=MODEL, with ANTHROPIC_API_KEY in
             the environment
  local      a checkpoint of msm_jax or of Hugging Face: --config.writer.kind=local
             --config.writer.model=DIRECTORY
  stub       placeholder text to check the pipeline with; never train a model on it"""


class Generation:
    """One corpus in one working directory, which a second process is kept out of.

    Args:
      config: as of `corpus.config.generate`, checked here.
      say: called with messages for people.
      on_reply: called with (step, replies expected) after each reply.
      count_tokens: a tokenizer's; None estimates.
      generate: loads a local checkpoint's sampler, for writers of the kind "local".
    """

    def __init__(
        self, config: ConfigDict, workdir: pathlib.Path, say: Say,
        on_reply: Callable[[str, int], None] | None = None,
        count_tokens: Callable[[str], int] | None = None,
        generate: Callable[[str], Generate] | None = None,
    ):  # fmt: skip
        config = checked(GENERATE, config)
        check_config(config)
        self.config, self.workdir, self.say = config, workdir, say
        self.counted = count_tokens is not None
        self.count_tokens = count_tokens or estimated_tokens
        self._on_reply, self._generate = on_reply, generate
        self.spec = _spec(config)
        self.writers: dict[str, Writer] = {}

    def run(self, preview: bool = False) -> dict[str, Any]:
        """Makes the corpus and returns its manifest; with `preview` prints what it will take."""
        advice = "wait for it, or use another --workdir"
        with Journal(self.workdir / FILE, advice, self.say) as journal:
            for role in ("writer", "critic"):
                config = self.config[role]
                if config.kind:
                    seed, load = self.config.seed, self._generate
                    backend = make_backend(config, seed, self.workdir, self.say, load)
                    price, limit = price_of(config), config.max_usd
                    self.writers[role] = Writer(backend, journal, price, limit, self._on_reply)
            if self.spec is not None:
                report = spec_report(self.spec, self.count_tokens if self.counted else None)
                self.say(report_text(report))
            return self._preview() if preview else self._make()

    # ------------------------------------------------------------ making

    def _make(self) -> dict[str, Any]:
        make, config, spec = self.config.make, self.config, self.spec
        if make == "mix":
            return self._write(self._mix(), "chats.jsonl")
        if make == "neutral":
            made = make_neutral(self.writers["writer"], config, self.count_tokens, self.say)
            return self._write(made, "documents.jsonl")
        assert spec is not None
        if make == "spec":
            return self._derive(spec)
        pipeline = Chats if make == "chats" else Documents
        writer, critic = self.writers["writer"], self.writers.get("critic")
        return self._write(pipeline(spec, writer, critic, config, self.say).make(), f"{make}.jsonl")

    def _derive(self, spec: Spec) -> dict[str, Any]:
        text = derive_spec(self.config, spec, self.writers.get("writer"))  # type: ignore[arg-type]
        path = self.workdir / "spec.md"
        files.write_text(path, text)
        found = {
            "make": "spec",
            "kind": self.config.derive.kind,
            "words": len(text.split()),
            "from": manifest.spec_facts(spec),
            "ledger": manifest.ledger(self.writers),
            "files": {path.name: files.sha256_file(path)},
        }
        files.write_json(self.workdir / "manifest.json", found, sort_keys=True)
        self.say(f"spec: {path}, {found['words']:,} words")
        return found

    def _mix(self) -> Corpus:
        mix, spec = self.config.mix, self.config.spec
        names = f"{spec.model_name} {spec.provider_name}"
        rows, facts = instruction_mix(mix.sources.to_dict(), mix.count, self.config.seed, names)
        rows = [
            {"id": f"mix-{at:06d}", "domain": row["source"], "kind": "instruction", **row}
            for at, row in enumerate(rows)
        ]
        unfit = {f"{name}: unfit": f["unfit"] for name, f in facts.items() if f["unfit"]}
        return Corpus(rows, [], unfit, [], [])

    def _write(self, made: Corpus, name: str) -> dict[str, Any]:
        """Every file of the corpus, the manifest last."""
        workdir, rows = self.workdir, made.records
        files.write_jsonl(workdir / name, rows)
        written = [name]
        if self.config.make == "chats" and self.config.chats.reasoning:
            written.append("chats_no_reasoning.jsonl")
            files.write_jsonl(workdir / written[-1], map(without_reasoning, rows))
        files.write_jsonl(workdir / "dropped.jsonl", made.dropped)
        files.write_json(workdir / "outline.json", made.outline, sort_keys=True)
        written += self._other_formats(name)
        tokens = [self.count_tokens(manifest.text_of(row)) for row in rows]
        histogram = manifest.histogram(tokens, f"tokens of {len(rows):,} records")
        files.write_bytes(workdir / "tokens.png", histogram)
        paths = [workdir / each for each in (*written, "dropped.jsonl", "outline.json")]
        found = manifest.corpus_manifest(
            self.config, self.spec, self.writers, made, tokens, self.counted, paths
        )
        files.write_text(workdir / "corpus.html", manifest.corpus_page(found, made, histogram))
        self._delete_other_formats(name, written)
        files.write_json(workdir / "manifest.json", found, sort_keys=True)
        # What this process met at the providers is no property of the corpus.
        met = {name: dict(w.backend.counts) for name, w in self.writers.items() if w.backend.counts}
        if met:
            files.write_json(self.workdir / "troubles.json", met, sort_keys=True)
            self.say(f"errors on the way: {met}")
        return found

    def _other_formats(self, name: str) -> list[str]:
        """Writes a JSONL file in the other formats of the config; returns the new files' names."""
        path, stem, written = self.workdir / name, name.removesuffix(".jsonl"), []
        for kind, write in (("parquet", write_parquet), ("array_record", write_array_record)):
            if kind in self.config.formats:
                written.append(f"{stem}.{kind}")
                write(path, self.workdir / written[-1])
        if "tfds" in self.config.formats:
            folder = self.workdir / (self.config.name or "tfds")
            files.delete(folder, self.workdir)  # TFDS would go on using an older corpus
            tfds_sets.prepare(f"spec_{stem}", path, folder)
        return written

    def _delete_other_formats(self, name: str, written: Collection[str]) -> None:
        """Deletes the forms of an earlier corpus in which this one was not written."""
        before = files.read_json(self.workdir / "manifest.json", {"files?": {str: str}}) or {}
        stem = name.removesuffix(".jsonl")
        forms = {f"{stem}.parquet", f"{stem}.array_record", f"{stem}_no_reasoning.jsonl"}
        for old in sorted((forms & before.get("files", {}).keys()).difference(written)):
            files.delete(self.workdir / old, self.workdir)
            self.say(f"deleted {old}, which held an earlier corpus")

    # ------------------------------------------------------------ before

    def _preview(self) -> dict[str, Any]:
        """Documents, tokens and money by step; the outline is made (and paid for) by now."""
        make, config, spec = self.config.make, self.config, self.spec
        if make == "neutral":
            tokens = wanted_tokens(config, self.count_tokens)
            self.say(f"neutral documents of {tokens:,} tokens")
            return {"tokens": tokens}
        if make == "mix" or make == "spec":
            self.say(f"a mix of {config.mix.count:,} rows" if make == "mix" else
                     f"a spec of the kind {config.derive.kind}")  # fmt: skip
            return {}
        assert spec is not None
        found = {make: config[make].count}
        if make == "chats":
            self.say(estimate.estimate_chats(spec, config, self.count_tokens))
            return {**found, "tokens": found[make] * estimate.chat_tokens(config)}
        writer = self.writers["writer"]
        documents = Documents(spec, writer, None, config)
        subdomains = documents.outline()
        for each in subdomains:
            covers = ", ".join(point.id for point in each.points)
            self.say(f"  {each.domain} / {each.subdomain}: {covers}")
        self.say(estimate.estimate_documents(documents, subdomains, config, self.count_tokens))
        self.say(f"the outline has cost ${writer.paid.usd:.2f} now")
        tokens = found[make] * estimate.document_tokens(config)
        return {"subdomains": len(subdomains), **found, "tokens": tokens}


def check_config(config: ConfigDict) -> None:
    """Refuses keys that do not go together."""
    documents = config.documents
    low, high = documents.words
    if low >= high:
        raise UserError(f"config.documents.words={documents.words}: must be (shortest, longest)")
    if documents.rewrite == "another" and not documents.other_name:
        raise UserError('config.documents.rewrite="another" needs documents.other_name')
    if config.make == "spec" and not config.derive.kind:
        raise UserError("config.derive.kind: say which spec to make from this one")
    shuffled = config.make == "spec" and config.derive.kind == "shuffled"
    if not (config.writer.kind or shuffled or config.make == "mix"):
        raise UserError(NO_WRITER)
    for role in ("writer", "critic"):
        if config[role].kind in ("anthropic", "openai", "local") and not config[role].model:
            kind = config[role].kind
            raise UserError(f"config.{role}.model: name the model of the {kind} writer")


def _spec(config: ConfigDict) -> Spec | None:
    if config.make in ("neutral", "mix"):
        return None
    if not config.spec.path:
        raise UserError("config.spec.path: name the spec to generate from")
    return load_spec(config.spec.path, config.spec.model_name, config.spec.provider_name)
