"""Two processes share a mesh: each of them gets the answers and scores of one."""

import json

import numpy as np
from processes import Command, free_port

PROGRAM = """
import json, sys
import jax, numpy as np
port, number = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
from msm_jax.model import ModelConfig, abstract_params, make_mesh, param_shardings
from msm_jax.sample import logprobs, sample
config = ModelConfig(vocab_size=64, width=16, layers=1, heads=4, kv_heads=2, head_dim=8,
                     mlp_width=16)
rng = np.random.default_rng(0)
some = lambda x: rng.normal(0, 0.5, x.shape).astype(x.dtype)
here = jax.tree.map(some, abstract_params(config))
prompts, found = [[5, 6, 7], *([at] for at in range(1, 8))], []
for mesh in (None, make_mesh({"data": 2, "fsdp": 1, "tensor": 2})):
    params = jax.device_put(here, param_shardings(config, mesh)) if mesh else here
    answers = sample(config, params, prompts, n=2, max_tokens=20, seed=1, rows=8, mesh=mesh)
    tokens = [[answer.tokens for answer in some] for some in answers]
    scores = logprobs(config, params, prompts[:2], [[1, 2], [3]], mesh=mesh)
    found.append([tokens, np.concatenate(scores).tolist()])
print(json.dumps(found))
"""


def test_two_processes_sample_and_score_as_one(tmp_path):
    (tmp_path / "sampler.py").write_text(PROGRAM)
    port, two = str(free_port()), "--xla_force_host_platform_device_count=2"
    workers = [
        Command("sampler", port, str(number), cwd=tmp_path, XLA_FLAGS=two) for number in range(2)
    ]
    ends = [worker.finish() for worker in workers]
    assert all(code == 0 for code, _, _ in ends), ends
    for _, output, _ in ends:
        (tokens, scores), (same_tokens, same_scores) = json.loads(output.splitlines()[-1])
        assert same_tokens == tokens and len(tokens[0][0]) == 20
        np.testing.assert_allclose(same_scores, scores, atol=1e-5)
