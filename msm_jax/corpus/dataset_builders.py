"""Builders of the TFDS data sets `spec_documents` and `spec_chats`; importing registers them."""

import pathlib
from typing import Any

import tensorflow_datasets as tfds

from msm_jax.corpus.records import CHATS, CONTENT, DOCUMENTS, checked_rows
from msm_jax.files import sha256_file


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Reads the JSONL file `jsonl`, or documents.jsonl or chats.jsonl in TFDS's manual folder."""

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION = ""

    def __init__(self, *, jsonl: str | pathlib.Path = "", **kwargs: Any):
        self._jsonl = str(jsonl)
        # ArrayRecord is the format that can be written and read at random without TensorFlow.
        kwargs.setdefault("file_format", "array_record")
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        columns = (CONTENT[self.name], "id", "provenance")
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.DESCRIPTION} `id`: its name, or its line as `line-000001`. "
            "`provenance`: all other keys of the row as a JSON object. In the order of the JSONL.",
            features=tfds.features.FeaturesDict({name: tfds.features.Text() for name in columns}),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # record i is row i
        )

    def _split_generators(self, dl_manager):
        path = self._jsonl or dl_manager.manual_dir / f"{self.name.removeprefix('spec_')}.jsonl"
        self.info.metadata["sha256"] = sha256_file(path)
        return {"train": self._generate_examples(path)}

    def _generate_examples(self, path):
        return enumerate(checked_rows(self.name, path))


_INSTRUCTIONS = (
    "Put the {0}, a JSON object with {1} per line, into `{0}.jsonl` in the folder of "
    "DownloadConfig(manual_dir=...), or pass jsonl=PATH to the builder."
)


class SpecDocuments(_Builder):
    name = DOCUMENTS
    DESCRIPTION = "Documents about a Model Spec. `text`: the document."
    MANUAL_DOWNLOAD_INSTRUCTIONS = _INSTRUCTIONS.format("documents", "a `text`")


class SpecChats(_Builder):
    name = CHATS
    DESCRIPTION = "Chats that follow a Model Spec. `messages`: the messages, as a JSON list."
    MANUAL_DOWNLOAD_INSTRUCTIONS = _INSTRUCTIONS.format("chats", "`messages`")


BUILDERS = {DOCUMENTS: SpecDocuments, CHATS: SpecChats}
