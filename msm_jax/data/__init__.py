"""From text to batches: tokenizers, chat formats, packing, Grain pipelines."""
