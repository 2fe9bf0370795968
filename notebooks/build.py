"""Writes notebooks/*.ipynb, without outputs, from the notebooks' .py files (jupytext, percent).

    make notebooks        or    python notebooks/build.py

The .py file is what one edits and reviews; the .ipynb beside it is what Colab opens. Names of cells
follow from their place, so that the same .py is the same .ipynb to the last byte. Having edited the
.ipynb in Jupyter, `jupytext --to py:percent NAME.ipynb` brings it back, and then `make notebooks`.
"""

import json
import pathlib

import jupytext

HERE = pathlib.Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
ACCELERATED = ("finetune", "qwen")  # Colab opens these on a GPU


def sources() -> list[pathlib.Path]:
    """The notebooks, as .py files."""
    return sorted(path for path in HERE.glob("*.py") if path.name != pathlib.Path(__file__).name)


def as_ipynb(source: pathlib.Path) -> str:
    """The .ipynb of a .py, as text."""
    notebook = jupytext.read(source, fmt="py:percent")
    cells = []
    for number, cell in enumerate(notebook.cells, start=1):
        shown = {"cell_type": cell.cell_type, "id": f"{source.stem}-{number:02d}", "metadata": {}}
        if cell.cell_type == "code":
            shown |= {"execution_count": None, "outputs": []}
        cells.append({**shown, "source": cell.source.splitlines(keepends=True)})
    metadata = {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": KERNEL,
        "language_info": {"name": "python"},
        "colab": {"provenance": [], "toc_visible": True},
    }
    if source.stem in ACCELERATED:
        metadata["accelerator"] = "GPU"
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for source in sources():
        source.with_suffix(".ipynb").write_text(as_ipynb(source), encoding="utf-8")
        print(source.with_suffix(".ipynb").name)
