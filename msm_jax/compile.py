"""Compile a stage ahead of time, for devices that are not here; prints what it needs.

    python -m msm_jax.compile --config=configs/scale/qwen.py:qwen3-32b,full,v5p-64  # takes minutes
    python -m msm_jax.compile --config=configs/scale/qwen.py:qwen3-8b,lora,v5p-64 --mesh=8

--topology (or config.topology) compiles for TPUs, which needs libtpu (the extra `tpu`) and no TPU,
or with h100 or h200 for one such GPU, which needs the extra `gpu` and no GPU; --mesh for so many
fake CPU devices, which needs nothing. The config is a stage's, as for `train`;
neither its data nor its tokenizer are read. --json=FILE also writes the figures.
"""

from absl import flags

from msm_jax import command

_TOPOLOGY = flags.DEFINE_string(
    "topology", "", "A TPU topology (v5p:4x4x4) or slice (v5p-128), or h100, h200."
)
_MESH = flags.DEFINE_integer("mesh", 0, "Number of fake CPU devices to compile for instead.")
_DECODE = flags.DEFINE_bool("decode", True, "Also compile one decoding step of the sampler.")
_ROWS = flags.DEFINE_integer("rows", 64, "Rows of the decoding step.")
_SLOTS = flags.DEFINE_integer("slots", 4096, "Tokens of the decoding step's prompts.")
_JSON = flags.DEFINE_string("json", "", "File to which the figures are written as JSON.")


def main() -> None:
    from msm_jax.files import write_json
    from msm_jax.outputs import output_file
    from msm_jax.settings import checked
    from msm_jax.train import aot
    from msm_jax.train.config import STAGE
    from msm_jax.train.targets import devices_for

    config, count = checked(STAGE, flags.FLAGS.config), _MESH.value
    figures_file = output_file(_JSON.value, "--json") if _JSON.value else None
    devices = devices_for(_TOPOLOGY.value or ("" if count else config.topology), count)
    if count:
        config.mesh.update({"data": 1, "fsdp": -1})
        config.rows = max(config.rows, count * config.accumulation)
        config.model.attention = "auto"
    reports = [aot.compile_step(config, devices)]
    print("\n".join(reports[0].lines()), flush=True)
    if _DECODE.value:
        reports.append(aot.compile_decode(config, devices, _ROWS.value, _SLOTS.value))
        print("\n".join(reports[1].lines()), flush=True)
    if figures_file:
        write_json(figures_file, [report.figures() for report in reports])
    aot.check_fits(reports)


if __name__ == "__main__":
    command.run(main)
