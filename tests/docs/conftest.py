"""A scratch directory in which the documented commands find what they name."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "docs" / "hooks")]

TEMPLATE = (
    "{%- for turn in messages %}{{- '<|im_start|>' + turn.role + '\\n' + turn.content + "
    "'<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory, smoke):
    """configs/ and the package as in a checkout, a tiny Qwen3-8B, prompts, a spec, a study."""
    folder = tmp_path_factory.mktemp("walk")
    for name in ("configs", "benchmarks", "msm_jax"):
        (folder / name).symlink_to(ROOT / name)
    _write_checkpoint(folder / "Qwen3-8B")
    shutil.copytree(smoke, folder / "runs" / "miniature", symlinks=True)
    (folder / "my-adapter").symlink_to("adapter")
    (folder / "prompts.jsonl").write_text('{"prompt": "a lamp"}\n{"prompt": "a chair", "n": 1}\n')
    spec = (ROOT / "msm_jax/spec/examples/values.md").read_text(encoding="utf-8")
    (folder / "my_spec.md").write_text(spec, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def run(scratch, forked):
    """Runs a program in the scratch directory, as a reader of the documentation would.

    Our own commands are run in forks, which spares each of them seconds of imports.
    """

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        caches = {"MSM_JAX_CACHE": str(scratch / "tokens")}
        first = arguments[1:3] if arguments[0] == sys.executable else ("", "")
        if first[0] == "-c" or (first[0] == "-m" and first[1].startswith("msm_jax.")):
            more = {"stdin": stdin, "env": {**caches, "PYTHONPATH": path}}
            words = list(arguments[2:] if first[0] == "-c" else arguments[3:])
            found = forked(first[1] if first[0] == "-m" else "-c", words, scratch, **more)
            code, out, err = found["code"], found["out"], found["err"]
            return subprocess.CompletedProcess(arguments, code, out, err)
        return subprocess.run(
            arguments,
            cwd=scratch,
            env={**os.environ, **caches, "PYTHONPATH": path},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def _write_checkpoint(folder: pathlib.Path) -> None:
    """A random decoder of Qwen3's form with a tokenizer of its own, as Hugging Face stores them."""
    import jax
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from msm_jax.model import ModelConfig, init_params
    from msm_jax.weights.export import save_checkpoint

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(path) for path in sorted((ROOT / "msm_jax/spec").rglob("*.md"))], trainer)
    beside = folder.with_name("tokenizer")
    beside.mkdir()
    tokenizer.save(str(beside / "tokenizer.json"))
    settings = {"chat_template": TEMPLATE, "eos_token": "<|im_end|>"}
    (beside / "tokenizer_config.json").write_text(json.dumps(settings))
    # One layer, because all that is asked of it is that the commands run: the programs of two take
    # nearly twice as long to compile.
    config = ModelConfig(
        vocab_size=2048, width=32, layers=1, heads=4, kv_heads=2, head_dim=8, mlp_width=64
    )
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    save_checkpoint(folder, config, params, None, beside)
