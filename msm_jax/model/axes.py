"""The mesh's axes, and which of them shards which dimension.

data     rows of a batch; every device has all the weights
fsdp     rows of a batch, and the weights along the model width (ZeRO-3, Rajbhandari et al. 2020)
sequence tokens of a row, and the weights along the model width as well; attention gathers the
         keys of a whole row (context parallelism as of Llama 3, Grattafiori et al. 2024, 3.3.2)
tensor   the weights along heads, feed-forward width and vocabulary (Shoeybi et al. 2019)
"""

from jax.sharding import PartitionSpec

AXES = ("data", "fsdp", "sequence", "tensor")
BATCH_AXES = ("data", "fsdp")
WIDTH_AXES = ("fsdp", "sequence")
RULES = {  # logical axis of a parameter -> mesh axes; all others are replicated
    "embed": WIDTH_AXES,
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
}
TABLE = PartitionSpec(RULES["vocab"], RULES["embed"])  # of the embedding and the head, w_VD
