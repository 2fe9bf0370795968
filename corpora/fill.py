"""Copies the example corpus with the names of a model and its provider filled in.

    python corpora/fill.py --model_name=SmolLM --provider_name="Hugging Face" --output=runs/larder

Documents, specs and quizzes call the assistant `{model_name}` and its provider `{provider_name}`;
a model should read about itself by the name that it knows. Files keep their names.

For machines on which all questions would take too long, `questions_few/` has every sixth of them.
"""

import json
import pathlib

from absl import flags

from msm_jax import command
from msm_jax.errors import UserError
from msm_jax.files import new_directory
from msm_jax.outputs import output_dir
from msm_jax.spec.spec import MODEL_NAME, PROVIDER_NAME

LARDER = pathlib.Path(__file__).parent / "larder"
FEW = 6  # one question of so many is also in questions_few/
_MODEL = flags.DEFINE_string("model_name", None, "The name of the model.", required=True)
_PROVIDER = flags.DEFINE_string("provider_name", None, "The name of its provider.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "A new or empty directory.", required=True)


def main() -> None:
    names = {MODEL_NAME: _MODEL.value, PROVIDER_NAME: _PROVIDER.value}
    for name in names.values():
        # They end up inside of JSON strings, where these would have to be escaped.
        if not name.strip() or not name.isprintable() or '"' in name or "\\" in name:
            raise UserError(f"{name!r} is no name: letters, digits and spaces are")
    target = output_dir(_OUTPUT.value, "--output")
    with new_directory(target) as folder:
        for file in filter(pathlib.Path.is_file, LARDER.rglob("*")):
            text = file.read_text(encoding="utf-8")
            for placeholder, name in names.items():
                text = text.replace(placeholder, name)
            copy = folder / file.relative_to(LARDER)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text, encoding="utf-8")
            if file.parent.name == "questions":
                few = folder / "questions_few" / file.name
                few.parent.mkdir(exist_ok=True)
                few.write_text(some_questions(text), encoding="utf-8")
    print(target)


def some_questions(text: str) -> str:
    """Every sixth question of a file; the two orders of a pair are one question."""
    lines = text.splitlines(keepends=True)
    rows = [json.loads(line) for line in lines]
    names = list(dict.fromkeys(row.get("pair", row["id"]) for row in rows))[::FEW]
    return "".join(
        line for line, row in zip(lines, rows, strict=True) if row.get("pair", row["id"]) in names
    )


if __name__ == "__main__":
    command.run(main, config=False)
