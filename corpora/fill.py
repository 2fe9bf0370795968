"""Copies the example corpus with the names of a model and its maker filled in.

    python corpora/fill.py --model_name=SmolLM --provider_name="Hugging Face" --output=runs/larder

Documents, specs and quizzes call the assistant `{model_name}` and its maker `{provider_name}`; a
model should read about itself by the name that it knows. Files keep their names.
"""

import pathlib

from absl import flags

from msm_jax import command
from msm_jax.errors import UserError
from msm_jax.outputs import output_dir
from msm_jax.spec.spec import MODEL_NAME, PROVIDER_NAME

LARDER = pathlib.Path(__file__).parent / "larder"
_MODEL = flags.DEFINE_string("model_name", None, "What the model is called.", required=True)
_PROVIDER = flags.DEFINE_string("provider_name", None, "Who made it.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "A new directory.", required=True)


def filled(text: str, model_name: str, provider_name: str) -> str:
    """A text with both names in it."""
    return text.replace(MODEL_NAME, model_name).replace(PROVIDER_NAME, provider_name)


def main() -> None:
    names = (_MODEL.value, _PROVIDER.value)
    for name in names:
        # They end up inside of JSON strings, where these would have to be escaped.
        if not name.strip() or not name.isprintable() or '"' in name or "\\" in name:
            raise UserError(f"{name!r} is no name: letters, digits and spaces are")
    target = output_dir(_OUTPUT.value, "output")
    if target.exists() and any(target.iterdir()):
        raise UserError(f"--output={target}: holds something already: name a new directory")
    for file in sorted(LARDER.rglob("*")):
        if file.is_file():
            copy = target / file.relative_to(LARDER)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(filled(file.read_text(encoding="utf-8"), *names), encoding="utf-8")
    print(target)


if __name__ == "__main__":
    command.run(main, config=False)
