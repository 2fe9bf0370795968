"""The builder, in the folder layout that TFDS expects. Works without TensorFlow."""

import pathlib
from typing import Any

import tensorflow_datasets as tfds

from msm_jax.corpus import records
from msm_jax.corpus.chat_records import chat_records

MANUAL_FILE = "chats.jsonl"


class Builder(tfds.core.GeneratorBasedBuilder):
    """Reads the JSONL named by `jsonl`, else `chats.jsonl` in TFDS's manual folder."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put the chats, a JSON object with `messages` per line, into `{MANUAL_FILE}` in the "
        "folder of DownloadConfig(manual_dir=...), or pass jsonl=PATH to the builder."
    )

    def __init__(self, *, jsonl: str | pathlib.Path = "", **kwargs: Any):
        self._jsonl = str(jsonl)
        # ArrayRecord is the format that can be written and read at random without TensorFlow.
        kwargs.setdefault("file_format", "array_record")
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "messages": tfds.features.Text(),
                    "id": tfds.features.Text(),
                    "provenance": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # record i is row i
        )

    def _split_generators(self, dl_manager):
        path = self._jsonl or pathlib.Path(dl_manager.manual_dir) / MANUAL_FILE
        self.info.metadata["sha256"] = records.file_hash(path)
        return {"train": self._generate_examples(path)}

    def _generate_examples(self, path):
        return enumerate(chat_records(path))
