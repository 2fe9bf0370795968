"""Builders of the TFDS data sets `spec_documents` and `spec_chats`; importing registers them."""

import pathlib
from typing import Any

import tensorflow_datasets as tfds

from msm_jax.corpus.records import CHATS, CONTENT, DOCUMENTS, checked_rows
from msm_jax.files import sha256_file


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Reads the JSONL file `jsonl`, or the file FILE in TFDS's manual folder."""

    VERSION = tfds.core.Version("1.0.0")
    FILE = DESCRIPTION = ""

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
        path = self._jsonl or pathlib.Path(dl_manager.manual_dir) / self.FILE
        self.info.metadata["sha256"] = sha256_file(path)
        return {"train": self._generate_examples(path)}

    def _generate_examples(self, path):
        return enumerate(checked_rows(self.name, path))


class SpecDocuments(_Builder):
    name = DOCUMENTS
    FILE = "documents.jsonl"
    DESCRIPTION = "Documents about a Model Spec. `text`: the document."
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put the documents, a JSON object with a `text` per line, into `{FILE}` in the folder of "
        "DownloadConfig(manual_dir=...), or pass jsonl=PATH to the builder."
    )


class SpecChats(_Builder):
    name = CHATS
    FILE = "chats.jsonl"
    DESCRIPTION = "Chats that follow a Model Spec. `messages`: the messages, as a JSON list."
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put the chats, a JSON object with `messages` per line, into `{FILE}` in the folder of "
        "DownloadConfig(manual_dir=...), or pass jsonl=PATH to the builder."
    )


BUILDERS = {DOCUMENTS: SpecDocuments, CHATS: SpecChats}
