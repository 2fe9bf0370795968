"""How a study's workers share the devices of a machine, and how long it takes: pure functions."""

import dataclasses
import os

import pytest

from msm_jax import accelerators
from msm_jax.errors import UserError
from msm_jax.study import devices, records, times
from msm_jax.study.claims import Claims
from msm_jax.study.graph import Study
from msm_jax.study.node import Node


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("n", [1, 4, 8])
def test_by_default_each_accelerator_has_a_worker_of_its_own(platform, n):
    names = [str(i) for i in range(n)]
    found = devices.divide(platform, names, 0)
    assert [place.devices for place in found] == [(name,) for name in names]
    (alone,) = devices.divide(platform, names, 1)
    assert alone.devices == tuple(names)
    if n > 1:
        halves = devices.divide(platform, names, n // 2)
        assert [place.devices for place in halves] == [
            (names[2 * i], names[2 * i + 1]) for i in range(n // 2)
        ]


def test_what_cannot_be_divided_is_refused_with_what_can():
    four = ["0", "1", "2", "3"]
    with pytest.raises(UserError, match="workers=3: 4 GPUs .*one of 1, 2, 4, or a multiple of 4"):
        devices.divide("gpu", four, 3)
    with pytest.raises(UserError, match="workers=8: 4 TPU chips .*one of 1, 2, 4$"):
        devices.divide("tpu", four, 8)
    shared = devices.divide("gpu", four, 8)
    assert [place.devices[0] for place in shared] == four * 2
    assert {place.sharing for place in shared} == {2}


def test_cpu_workers_have_a_core_each_however_many_there_are():
    found = devices.divide("cpu", ["0", "5"], 3)
    assert [place.devices for place in found] == [("0",), ("5",), ("0",)]
    assert not devices.helpers(found)


def test_a_worker_sees_its_own_accelerators_only(monkeypatch):
    for name in devices.MEMORY_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    second = devices.divide("gpu", ["2", "3"], 4)[1]  # as CUDA_VISIBLE_DEVICES=2,3 leaves them
    found = devices.environment(second)
    assert found["CUDA_VISIBLE_DEVICES"] == "3" and found["JAX_PLATFORMS"] == "cuda,cpu"
    assert float(found["XLA_CLIENT_MEM_FRACTION"]) == devices.GPU_MEMORY / 2
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")  # both are an error in jaxlib
    assert "XLA_CLIENT_MEM_FRACTION" not in devices.environment(second)
    chips = [devices.environment(place) for place in devices.divide("tpu", list("0123"), 2)]
    assert [env["TPU_VISIBLE_CHIPS"] for env in chips] == ["0,1", "2,3"]
    assert chips[0]["TPU_PROCESS_PORT"] != chips[1]["TPU_PROCESS_PORT"]
    assert "TPU_VISIBLE_CHIPS" not in devices.environment(*devices.divide("tpu", list("0123"), 1))


def test_a_cpu_worker_has_one_thread_and_the_users_other_flags(monkeypatch):
    (place,) = devices.divide("cpu", ["0"], 0)
    flag = devices.ONE_THREAD["XLA_FLAGS"]
    for given in ("", flag, flag.replace("false", "true")):
        monkeypatch.setenv("XLA_FLAGS", f"--xla_force_host_platform_device_count=4 {given}")
        found = devices.environment(place)["XLA_FLAGS"]
        assert found.split() == ["--xla_force_host_platform_device_count=4", flag]


def test_what_there_is_decides_where_nobody_does(monkeypatch):
    installed = {"jax-cuda13-plugin": "0.10.2"}
    monkeypatch.setattr(accelerators, "gpus", lambda: 2)
    monkeypatch.setattr(accelerators, "tpu_chips", lambda: 0)
    monkeypatch.setattr(accelerators, "installed", lambda name: installed.get(name, ""))
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS"):
        monkeypatch.delenv(name, raising=False)
    assert len(devices.places("", 0)) == 2
    assert devices.places("cpu", 0)[0].platform == "cpu"
    with pytest.raises(UserError, match="config.platform='tpu': this machine has no TPU"):
        devices.places("tpu", 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-abc,-1,0")
    assert [place.devices for place in devices.places("gpu", 0)] == [("GPU-abc",)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.places("", 0)[0].platform == "cpu"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    installed.clear()
    assert devices.places("", 0)[0].platform == "cpu"
    with pytest.raises(UserError, match=r"pip install 'msm_jax\[gpu\]'"):
        devices.places("gpu", 0)


def test_a_stage_that_does_not_fit_is_said_what_to_set():
    one = devices.divide("gpu", list("01234567"), 0)[0]
    assert "1 of 8 GPUs: set config.workers=4, or 1," in devices.more_memory(one)
    shared = devices.divide("gpu", ["0"], 3)[0]
    assert "set config.workers=1" in devices.more_memory(shared)
    assert devices.more_memory(devices.divide("gpu", ["0", "1"], 1)[0]) == ""


def test_judges_behind_an_api_and_data_need_no_accelerator():
    node = lambda kind, config: Node("0" * 64, kind, kind, (), 0, config, {})
    assert devices.needs_accelerator(node("train", {}))
    assert devices.needs_accelerator(node("judge", {"judge": "checkpoint"}))
    assert devices.needs_accelerator(node("corpus", {"critic": {"kind": "local"}}))
    assert not devices.needs_accelerator(node("judge", {"judge": "anthropic"}))
    assert not devices.needs_accelerator(node("corpus", {"writer": {"kind": "openai"}}))
    gpus = devices.divide("gpu", ["0", "1"], 0)
    helpers = devices.helpers(gpus)
    assert helpers and all(place.platform == "cpu" for place in helpers)
    assert not {place.number for place in helpers} & {place.number for place in gpus}


# ------------------------------------------------------------------ hours


def stage(name, steps, seed=0, **inputs):
    config = {"steps": steps, "rows": 4, "sequence_length": 16, "model": {"width": 8}}
    return Node(name * 64, "train", name, (name,), seed, config, inputs)


def mark(node, seconds, **summary):
    return {
        **{"id": node.id, "kind": node.kind, "config": node.config, "seconds": seconds},
        **{"device": "1 GPU", "parent": node.inputs.get("parent"), "summary": summary},
    }


@pytest.fixture
def chain():
    """Two stages, one after the other, a third beside them, and the evaluation of each."""
    first, other = stage("a", 100), stage("c", 100)
    nodes = [first, stage("b", 50, parent=first.id), other]
    nodes += [
        Node(n.name.upper() * 64, "evals", "evals", n.path, 0, {"e": {}}, {"parent": n.id})
        for n in nodes
    ]
    return Study({"price_per_hour": 0.0}, {node.id: node for node in nodes}, {})


def test_the_time_is_what_nodes_of_the_same_kind_took(chain, tmp_path):
    a, b, c, *evals = chain.nodes.values()
    guess = lambda todo, workers=1, running={}: times.estimate(
        chain, todo, speeds, lambda _: "1 GPU", workers, running
    )
    speeds = times.Speeds(tmp_path)
    nothing = guess([a, b, c, *evals])
    assert nothing.text() == "" and len(nothing.unknown) == 6
    # 100 steps in 20 s, and 5 s to compile and save.
    speeds.add(mark(a, 25.0, steps=100, tokens=6400, tokens_per_second=320.0))
    assert guess([b]).seconds == pytest.approx(5 + 50 * 0.2)
    assert guess([b], running={b.id: (60.0, 40)}).seconds == pytest.approx(10 * 0.2)
    some = guess([b, c, *evals])
    assert some.text() == "at least 40 seconds (not measured yet: 3 evaluations)"
    assert times.estimate(chain, [b], speeds, lambda _: "2 GPUs", 1, {}).unknown == (b,)
    speeds.add(mark(evals[0], 12.0))
    assert guess([b, c, *evals[1:]]).seconds == pytest.approx(15 + 25 + 2 * 12)
    assert guess([b, c, *evals[1:]], workers=2).seconds == pytest.approx(25 + 12)
    assert guess([evals[1]], running={evals[1].id: (10.0, 0)}).seconds == pytest.approx(2)
    assert guess([c]).text(price=3600) == "about 25 seconds, cost 25.00"


def test_a_stage_from_another_base_is_another_kind(chain, tmp_path):
    a, b, *_ = chain.nodes.values()
    speeds = times.Speeds(tmp_path)
    for name in ("one", "two"):
        base = Node(name * 64, "base", "base", (), 0, {"path": name}, {})
        chain.nodes[base.id] = base
        speeds.add(mark(base, 0.0))
    of = lambda base: dataclasses.replace(a, inputs={"parent": base})
    one, two = (name * 4 for name in ("one", "two"))
    speeds.add(mark(of(one), 25.0, steps=100, tokens=6400, tokens_per_second=320.0))
    assert speeds.of(chain, of(one), "1 GPU") == pytest.approx(25)
    assert speeds.of(chain, dataclasses.replace(of(two), digest="d" * 64), "1 GPU") is None


def test_steps_that_are_not_known_yet_have_no_time(chain, tmp_path):
    a, b, *_ = chain.nodes.values()
    speeds = times.Speeds(tmp_path)
    speeds.add(mark(a, 25.0, steps=100, tokens=6400, tokens_per_second=320.0))
    later = dataclasses.replace(b, config={**b.config, "steps": 0})
    assert speeds.of(chain, later, "1 GPU") is None


def test_the_time_of_all_starts_is_added_up(tmp_path):
    (tmp_path / records.SPENT).write_text('{"seconds": 1800.0}')
    times.Spent(tmp_path, Claims(tmp_path)).update()
    study = Study({"price_per_hour": 2.0}, {}, {})
    found = times.record(study, tmp_path, {"a": {"device": "1 GPU", "summary": {}}})
    assert (found["all_runs"], found["cost"], found["devices"]) == (1800.0, 1.0, ["1 GPU"])


def test_cores_are_no_more_than_the_process_has_and_two_studies_begin_with_different_ones(
    monkeypatch,
):
    assert 1 <= len(devices.cores()) <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    found = []
    for number in (8, 9):
        monkeypatch.setattr(os, "getpid", lambda number=number: number)
        found.append(devices.cores()[0])
    assert found[0] != found[1] or len(devices.cores()) == 1
