"""Two processes share a mesh: the same weights as in one, each byte read about once."""

import json

import pytest
from processes import Command, free_port

PROGRAM = """
import json, os, sys
import jax, numpy as np
folder, port, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
from msm_jax.model import make_mesh
from msm_jax.weights import tensor_files
from msm_jax.weights.export import save_checkpoint
from msm_jax.weights.huggingface import load_checkpoint

bytes_read = 0
filled = tensor_files.Stored._filled
def counted(self, array, first):
    global bytes_read
    bytes_read += array.nbytes
    return filled(self, array, first)
tensor_files.Stored._filled = counted

found = {}
_, here = load_checkpoint(folder)
for sizes in ((1, 8, 1), (1, 1, 8), (2, 4, 1), (1, 2, 4)):
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes)))
    bytes_read = 0
    config, params = load_checkpoint(folder, mesh=mesh)
    found["x".join(map(str, sizes))] = bytes_read
    for one, many in zip(jax.tree.leaves(here), jax.tree.leaves(params), strict=True):
        assert not many.is_fully_addressable
        for piece in many.addressable_shards:
            np.testing.assert_array_equal(np.asarray(one)[piece.index], np.asarray(piece.data))
save_checkpoint(folder + "/again", config, params)
print(json.dumps(found))
"""


def test_each_process_reads_its_share(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import safetensors.numpy

    config = transformers.Qwen3Config(
        vocab_size=256, hidden_size=64, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=8, num_key_value_heads=8, head_dim=16, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(config).to(torch.float32).save_pretrained(tmp_path)
    (tmp_path / "reader.py").write_text(PROGRAM)
    words, four = (str(tmp_path), str(free_port())), "--xla_force_host_platform_device_count=4"
    workers = [
        Command("reader", *words, str(number), cwd=tmp_path, XLA_FLAGS=four) for number in range(2)
    ]
    ends = [worker.finish() for worker in workers]
    assert all(code == 0 for code, _, _ in ends), ends
    found = [json.loads(output.splitlines()[-1]) for _, output, _ in ends]
    file = tmp_path / "model.safetensors"
    whole = sum(tensor.nbytes for tensor in safetensors.numpy.load_file(file).values())
    # Norms are small and replicated; nothing else is read twice.
    for sizes in ("1x8x1", "1x1x8", "1x2x4"):
        assert all(each[sizes] <= 0.53 * whole for each in found), (sizes, found, whole)
    # With a copy of the weights in each process there is nothing to share.
    assert all(each["2x4x1"] <= 1.02 * whole for each in found), (found, whole)
    written = safetensors.numpy.load_file(tmp_path / "again" / "model.safetensors")
    for name, tensor in safetensors.numpy.load_file(file).items():
        assert (written[name] == tensor).all()
