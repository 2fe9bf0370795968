"""Compiles a stage's programs ahead of time for devices that are not here.

The real train step, and one step of decoding with the same weights, are lowered for a TPU topology
(with libtpu, no TPU) or for fake CPU devices, from shapes alone. It proves that they lower, that
the mesh fits them, that the kernels compile, and that the compiler's memory estimate fits. It
proves nothing about numbers or speed.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from msm_jax import accelerators
from msm_jax.errors import UserError
from msm_jax.model import (
    ModelConfig,
    abstract_params,
    decode,
    logits,
    make_mesh,
    param_shardings,
    placed,
)
from msm_jax.sample import scoring
from msm_jax.train import hlo
from msm_jax.train.flops import flops_per_token
from msm_jax.train.loss import token_logprobs
from msm_jax.train.optimizer import make_optimizer
from msm_jax.train.remat import choose, device_memory
from msm_jax.train.stage import model_config
from msm_jax.train.step import batch_shapes, make_step, step_arguments


@dataclasses.dataclass
class Report:
    """What a compiled program needs on each device.

    Attributes:
      bytes: "weights", "frozen weights", "optimizer", "batch", "cache" by what they are for, from
        their shapes and shardings; "arguments", "temporaries" as the compiler says.
      peak: the compiler's own peak, which counts less than arguments + temporaries; 0: unknown.
      limit: bytes of a device; 0 where that is unknown.
      flops: useful ones of a step, per device; `done` counts what is recomputed too.
      collectives: kind -> `hlo.Collective`.
      peak_flops, memory, link: of a device, FLOP/s and bytes/s; 0 where unknown.
    """

    name: str
    devices: str
    seconds: float
    bytes: dict[str, int]
    peak: int
    limit: float
    flops: float
    done: float
    tokens: int
    collectives: dict[str, hlo.Collective]
    peak_flops: float
    memory: float
    link: float
    convention: str

    @property
    def total(self) -> int:
        """Bytes of arguments and temporaries."""
        return self.bytes["arguments"] + self.bytes["temporaries"]

    @property
    def bound(self) -> dict[str, float]:
        """Seconds that a step takes at least, by its bottleneck; {} for an unknown chip."""
        if not self.peak_flops or not self.link:
            return {}
        moved = sum(one.bytes for one in self.collectives.values())
        return {
            "products at peak": self.done / self.peak_flops,
            "reading the arguments once": self.bytes["arguments"] / self.memory,
            "collectives over one axis of the torus": moved / self.link,
        }

    def figures(self) -> dict[str, Any]:
        """The report as JSON."""
        return {**dataclasses.asdict(self), "bound": self.bound}

    def lines(self) -> list[str]:
        """The report as text."""
        gib = lambda n: f"{n / 2**30:.2f} GiB"
        parts = ", ".join(f"{name} {gib(size)}" for name, size in self.bytes.items() if size)
        room = f" of {gib(self.limit)}, {1 - self.total / (self.limit or 1):.0%} free"
        text = [
            f"{self.name}: compiled for {self.devices} in {self.seconds:.0f} s",
            f"  a device holds: {parts}",
            f"  arguments + temporaries: {gib(self.total)}"
            + (room if self.limit else "")
            + (f" (the compiler's own peak: {gib(self.peak)})" if self.peak else ""),
            f"  a step: {self.tokens:,} tokens, {self.flops / 1e12:.2f} TFLOP per device that "
            f"count ({self.convention}), {self.done / 1e12:.2f} with what is computed twice",
        ]
        for kind, one in sorted(self.collectives.items()):
            text.append(f"  {kind}: {one.count} times, {gib(one.bytes)} per device and step")
        if self.bound:
            slowest = max(self.bound.values())
            parts = ", ".join(f"{seconds:.4f} s of {what}" for what, seconds in self.bound.items())
            text.append(
                f"  bound: {parts}; overlapped perfectly {self.tokens / slowest:,.0f} tokens/s, "
                f"mfu {self.flops / self.peak_flops / slowest:.0%}. An estimate and no measurement:"
                " other memory traffic, imperfect overlap and attention's own efficiency are left "
                "out"
            )
        return text


def check_fits(reports: Sequence["Report"]) -> None:
    """UserError for the first program that does not fit a device."""
    for report in reports:
        if report.limit and report.total > report.limit:
            raise UserError(f"{report.name}: {report.total / 2**30:.1f} GiB do not fit a device")


def stage_model(config: ConfigDict) -> ModelConfig:
    """The model of a stage without its files: by preset, or by its own keys."""
    name = config.model.get("preset")
    if name == "parent":
        raise UserError('model.preset="parent" needs the parent; name a preset to compile')
    if not name and not config.model.vocab_size:
        raise UserError("model.vocab_size=0 follows a tokenizer; give a number to compile")
    return model_config(config)


def lower_step(
    config: ConfigDict, devices: Sequence[jax.Device], model: ModelConfig | None = None
) -> tuple[Any, ModelConfig, Any, dict]:
    """The train step of a stage, lowered for devices: `jax.stages.Lowered`, model, mesh, arguments.

    UserError if the mesh does not fit the model or its rows.
    """
    model, mesh = model or stage_model(config), make_mesh(config.mesh, devices)
    optimizer = make_optimizer(config.optimizer)
    shapes = step_arguments(config, model, mesh, optimizer)
    trained, state, frozen, batch, _ = shapes
    step = make_step(model, optimizer, config.accumulation, mesh)
    lowered = step.lower(*shapes)
    arguments = {"weights": trained, "frozen weights": frozen, "optimizer": state, "batch": batch}
    return lowered, model, mesh, arguments


def compile_step(config: ConfigDict, devices: Sequence[jax.Device]) -> Report:
    """Compiles the train step of a stage; UserError if the compiler says that it does not fit."""
    model = stage_model(config)
    if model.remat == "auto":
        lower = lambda model: lower_step(config, devices, model)[0]
        model, _ = choose(model, lower, device_memory(devices[0]))
    lowered, model, mesh, arguments = lower_step(config, devices, model)
    tokens = config.rows * config.sequence_length
    flops = flops_per_token(model, config.sequence_length, config.trainable) * tokens
    # The forward pass is 2 of 6 per weight, 2 of 4 where it is frozen; remat runs it twice.
    twice = 8 / 6 if config.trainable == "all" else 6 / 4
    done = flops * (1 if model.remat in ("none", "dots") else twice)
    name = config.model.get("preset") or f"{model.layers} layers of {model.width}"
    kind = f" LoRA r={model.lora_rank}" if config.trainable == "lora" else " full"
    parts = f" in {config.accumulation} parts" if config.accumulation > 1 else ""
    title = (
        f"train step, {name}{kind}, {config.rows} rows of {config.sequence_length}{parts}, "
        f"remat {model.remat}, {model.param_dtype} weights"
    )
    convention = "6 per trained weight and token, 4 per frozen one, half of causal attention"
    return _compiled(title, lowered, mesh, arguments, tokens, flops, done, convention)


def compile_decode(
    config: ConfigDict, devices: Sequence[jax.Device], rows: int, slots: int
) -> Report:
    """Lowers and compiles one decoding step of the sampler: a token for each of `rows`.

    They answer one prompt of `slots` tokens per group of data-parallel devices, in rings of a
    quarter as many. Weights are bfloat16, or in 8 bits as the stage has them, sharded by heads as
    far as there are key/value heads; the other devices take other prompts.
    """
    model = stage_model(config)
    model = model.stored_as(model.param_dtype if model.eight_bits else "bfloat16")
    tensor = math.gcd(model.kv_heads, len(devices))
    mesh = make_mesh({"data": len(devices) // tensor, "fsdp": 1, "tensor": tensor}, devices)
    P = mesh.shape["data"]
    M = max(1, rows // P)
    params = _unstacked(model, mesh)
    place = lambda leaf: decode.cache_sharding(leaf.shape, mesh)
    cache = lambda shapes: placed(shapes, jax.tree.map(place, shapes))
    prompts = cache(jax.eval_shape(lambda: decode.empty(model, P, slots)))
    rings = cache(jax.eval_shape(lambda: decode.empty_rings(model, P, M, max(slots // 4, 1))))
    chunk = cache(jax.eval_shape(lambda: decode.empty_chunk(rings)))
    data = NamedSharding(mesh, PartitionSpec("data"))
    ids_PM = jax.ShapeDtypeStruct((P, M), np.int32, sharding=data)

    def step(  # the same order of arguments as `decode.decode`
        params: dict, prompts: Any, rings: Any, chunk: Any, tokens_PM: Any, ages_PM: Any
    ) -> tuple[Any, Any]:
        hidden_PMD, chunk = decode.decode(
            model, params, prompts, rings, chunk, tokens_PM, ages_PM, mesh
        )
        return logits(model, params, hidden_PMD).argmax(-1), chunk

    flops = 2 * sum(leaf.size for leaf in jax.tree.leaves(params)) * P * M
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # tells Pallas which GPU it is for
        lowered = jax.jit(step, donate_argnums=3).lower(
            params, prompts, rings, chunk, ids_PM, ids_PM
        )
    arguments = {"weights": params, "cache": (prompts, rings, chunk)}
    title = f"decode step, {P} x {M} rows, prompts of {slots}, {model.param_dtype} weights"
    return _compiled(title, lowered, mesh, arguments, P * M, flops, flops, "2 per weight and token")


def _unstacked(model: ModelConfig, mesh: jax.sharding.Mesh) -> dict:
    """The shapes of the weights with a tree for each layer, sharded as those of training."""
    places = param_shardings(model, mesh)
    one_layer = jax.tree.map(  # without the layers' axis
        lambda place: NamedSharding(mesh, PartitionSpec(*place.spec[1:])), places["layers"]
    )
    return placed(
        jax.eval_shape(decode.unstacked, abstract_params(model)),
        {**places, "layers": (one_layer,) * model.layers},
    )


def compile_scores(
    config: ConfigDict, devices: Sequence[jax.Device], rows: int, slots: int
) -> Report:
    """Compiles the log-probabilities of two answers of 8 tokens for each of rows / 2 prompts."""
    mesh, P, T = make_mesh({"fsdp": -1}, devices), max(rows // 2, 1), 8
    model = dataclasses.replace(stage_model(config), attention="auto", remat="none")
    params = placed(abstract_params(model), param_shardings(model, mesh))
    layers = _unstacked(model, mesh)
    of = lambda *shape: jax.ShapeDtypeStruct(shape, np.int32)
    inputs = (of(P, slots), of(P), of(P, 2, T), of(P, 2, T), of())
    lowered = scoring.score.lower(model, mesh, params, layers, *inputs)
    tokens = P * (slots + 2 * T)
    flops = flops_per_token(model, slots, "all") / 3 * tokens  # of 6 per weight, 2 are forward
    title = f"log-probabilities, {P} x 2 answers to prompts of {slots}, {model.dtype}"
    convention = "2 per weight and token, half of causal attention"
    arguments = {"weights": (params, layers)}
    return _compiled(title, lowered, mesh, arguments, tokens, flops, flops, convention)


def compile_loss(
    config: ConfigDict, devices: Sequence[jax.Device], rows: int, length: int
) -> Report:
    """Compiles the program of the loss on documents: `rows` packed rows, as `api` computes them."""
    mesh = make_mesh({"fsdp": -1}, devices)
    model = dataclasses.replace(stage_model(config), attention="auto", remat="none")
    params = placed(abstract_params(model), param_shardings(model, mesh))
    rows = -(-rows // len(devices)) * len(devices)
    lowered = token_logprobs.lower(
        model, params, batch_shapes(mesh, rows, rows, length), mesh, None
    )
    tokens = rows * length
    flops = flops_per_token(model, length, "all") / 3 * tokens  # of 6 per weight, 2 are forward
    title = f"loss on documents, {rows} rows of {length}, {model.dtype}"
    convention = "2 per weight and token, half of causal attention"
    return _compiled(title, lowered, mesh, {"weights": params}, tokens, flops, flops, convention)


def _device_bytes(tree: Any) -> int:
    shard = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return sum(shard(leaf) for leaf in jax.tree.leaves(tree))


def _compiled(
    name: str,
    lowered: Any,
    mesh: jax.sharding.Mesh,
    arguments: dict[str, Any],
    tokens: int,
    flops: float,
    done: float,
    convention: str,
) -> Report:
    devices, started = mesh.devices.flatten(), time.time()
    sizes = {what: _device_bytes(tree) for what, tree in arguments.items()}
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        held = ", ".join(f"{what} {size / 2**30:.2f} GiB" for what, size in sizes.items())
        raise UserError(
            f"{name}: does not fit: {str(error).strip().splitlines()[0][:300]}. A device holds "
            f"{held}, and intermediate results: use fewer rows per device, accumulation, "
            "remat=full, or more devices"
        ) from error
    memory, chip = compiled.memory_analysis(), accelerators.find(devices[0].device_kind)
    sizes["arguments"] = memory.argument_size_in_bytes
    sizes["temporaries"] = memory.temp_size_in_bytes
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    return Report(
        name=name,
        devices=f"{len(devices)} x {devices[0].device_kind} ({axes})",
        seconds=time.time() - started,
        bytes=sizes,
        peak=getattr(memory, "peak_memory_in_bytes", 0),
        limit=chip.memory if chip else 0.0,
        flops=flops / len(devices),
        done=done / len(devices),
        tokens=tokens,
        collectives=hlo.collectives(compiled.as_text()),
        peak_flops=chip.flops if chip else 0.0,
        memory=chip.bandwidth if chip else 0.0,
        link=chip.link if chip else 0.0,
        convention=convention,
    )
