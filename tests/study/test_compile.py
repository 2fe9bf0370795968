"""The programs of a study: all of them are listed, and each compiles."""

import runpy

import jax
import pytest

from msm_jax.errors import UserError
from msm_jax.study import compile


def test_every_program_of_a_study_compiles_once(tmp_path, make_tiny, load_config, monkeypatch):
    config = load_config(make_tiny(tmp_path))
    found = {each.line(): each for each in compile.programs(config)}
    assert [*found] == [
        "train: base, x, y",
        "scores (4 rows): which, facts",
        "decode (4 rows): which, said",
        "loss (4 rows of 16 tokens): held",
    ]
    real, file = compile.Program.compile, tmp_path / "figures.json"

    def compiled(program, *args):
        report = real(program, *args)
        if program.kind == "decode":
            raise UserError("does not fit")
        return report

    run = lambda study: compile.compile_all(
        [*found.values()], jax.devices()[:1], "here", 32, study, file
    )
    monkeypatch.setattr(compile.Program, "compile", compiled)
    for entry in run("one"):
        if entry["kind"] == "decode":
            assert entry["error"] == "does not fit"  # and the next one is compiled
        else:
            assert entry["bytes"]["weights"] > 0 and entry["flops"] > 0 and not entry["error"]
    monkeypatch.delattr(compile.Program, "compile")
    assert [entry["studies"] for entry in run("two")] == [["one", "two"]] * 4


def test_real_configs_have_few_programs_with_the_shape_of_their_base(root):
    get = lambda name: runpy.run_path(str(root / f"configs/paper/{name}.py"))["get_config"]
    for name, kinds in (
        ("fig2", ["train", "loss", "loss", "scores", "decode", "scores", "decode"]),
        ("fig4", ["train", "loss", "loss", "decode", "decode"]),
        ("fig5", ["train", "loss", "loss", "decode", "decode"]),
        ("fig12", ["decode"]),
    ):
        found = compile.programs(get(name)())
        assert [each.kind for each in found] == kinds
        assert {each.config.model.preset for each in found} <= {"llama-3.1-8b", "qwen3-32b"}
        ranks = {each.config.model.lora_rank for each in found if each.kind == "train"}
        assert ranks <= {64} and {each.config.model.lora_rank for each in found} <= {0, 64}
    few = compile.programs(get("fig12")(), layers=2)[0].config.model
    assert (few.preset, few.layers, few.width, few.vocab_size) == ("", 2, 5120, 151_936)
    unknown = get("fig12")().unlock()
    unknown.base.path = "weights/mine"
    with pytest.raises(UserError, match="weights/mine: is not named after a model .*--preset"):
        compile.programs(unknown)
