"""Launch scripts against a scripted cloud: how runs and resources end, and what was called."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

HERE = os.path.dirname(__file__)
ROOT = os.path.dirname(os.path.dirname(HERE))
SCRIPTS = ("create", "setup", "run", "babysit", "status", "logs", "stop", "delete")
TRAIN = ("msm_jax.train", "--config=configs/scale/qwen.py", "--workdir=runs/midtrain")
WHERE = ["--zone=us-east5-a", "--project=my-project"]
RESOURCE = ["gcloud", "compute", "tpus", "queued-resources"]
VM = ["gcloud", "compute", "tpus", "tpu-vm"]


def test_every_script_is_short_and_clean(root):
    files = sorted(
        path
        for path in (root / "launch").iterdir()
        if path.suffix == ".sh" or path.read_text().startswith("#!/usr/bin/env bash")
    )
    assert {path.name for path in files} >= {*SCRIPTS, "worker", "lib.sh"}
    for path in files:
        assert len(path.read_text().splitlines()) <= 80, path
        subprocess.run(["bash", "-n", path], check=True)
    places = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=places)
    assert shellcheck, "pip install 'msm_jax[test]' brings it"
    done = subprocess.run([shellcheck, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_explains_itself(cloud, script):
    out, _ = cloud.run(script, "--help")
    assert out.startswith(f"launch/{script} [--dry-run]") and "BASH_SOURCE" not in out


# ------------------------------------------------------------------ the commands themselves


def test_creation_waits_until_it_is_active(cloud):
    cloud.script(creations=[["WAITING_FOR_RESOURCES"] * 3 + ["PROVISIONING", "ACTIVE"]])
    _, err = cloud.run("create")
    assert cloud.calls(*RESOURCE, "create") == [
        # gcloud's reference page of queued-resources create
        "gcloud compute tpus queued-resources create msm --accelerator-type=v5p-16 "
        "--runtime-version=v2-alpha-tpuv5 --node-id=msm --spot --async --zone=us-east5-a "
        "--project=my-project".split()
    ]
    states = re.findall(r"msm: ([A-Z_]+)", err)
    assert states == ["ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    cloud.run("create")  # attaches to what is there
    assert len(cloud.calls(*RESOURCE, "create")) == 1
    assert cloud.calls(*RESOURCE, "describe")[0] == [
        *RESOURCE,
        "describe",
        "msm",
        "--format=value(state.state,state.failedData.error.message)",
        *WHERE,
    ]


def test_several_slices_reservations_and_more_arguments(cloud):
    cloud.settings(
        "SLICES=2 PROVISION=reserved ACCELERATOR=v5litepod-16 CREATE_ARGUMENTS=(--network=a)"
    )
    cloud.run("create")
    assert cloud.calls(*RESOURCE, "create") == [
        "gcloud compute tpus queued-resources create msm --accelerator-type=v5litepod-16 "
        "--runtime-version=v2-alpha-tpuv5-lite --node-count=2 --node-prefix=msm --reserved --async "
        "--network=a --zone=us-east5-a --project=my-project".split()
    ]
    cloud.settings("SLICES=2")
    cloud.run("setup")
    cloud.run("run", *TRAIN)
    assert {argv[5] for argv in cloud.calls(*VM, "ssh")} == {"msm-0", "msm-1"}
    assert len(cloud.programs()) == 4  # two slices of two hosts


def test_on_demand_takes_no_flag_and_an_image_of_ones_own(cloud):
    cloud.settings("PROVISION=on-demand IMAGE=my-image")
    cloud.run("create")
    [argv] = cloud.calls(*RESOURCE, "create")
    assert "--runtime-version=my-image" in argv
    assert not {"--spot", "--reserved"} & set(argv)


def test_setup_and_run_reach_all_workers_and_gather_logs_and_codes(cloud):
    cloud.settings("ENVIRONMENT=('LIBTPU_INIT_ARGS=--a=1 --b=$HOME')")
    cloud.run("create")
    _, err = cloud.run("setup")
    assert err.count("4 of 8 x TPU v5") == 2
    copies = cloud.calls(*VM, "scp")
    assert [re.sub("/[^ ]*/", "TMP/", " ".join(argv)) for argv in copies] == [
        "gcloud compute tpus tpu-vm scp TMP/source.tar.gz TMP/environment.sh TMP/keys.sh "
        "msm:msm_jax-msm/ --zone=us-east5-a --project=my-project --worker=all"
    ]
    [pip] = {tuple(argv) for argv in cloud.calls("uv", "pip")}
    assert pip[-4:] == ("--constraint", "source/constraints.txt", "--editable", "./source[tpu]")
    out, err = cloud.run("run", *TRAIN)
    assert err.rstrip().endswith("done")
    first = cloud.calls(*VM, "ssh")[0]
    assert first[:7] == [*VM, "ssh", "msm", WHERE[0]] and first[8] == "--worker=all"
    assert first[9].startswith("--command=")
    ran = cloud.programs()
    assert [one["argv"] for one in ran] == [["program", "-m", *TRAIN, "--distributed"]] * 2
    assert sorted(one["env"]["WORKER"] for one in ran) == ["0", "1"]
    assert ran[0]["env"]["LIBTPU_INIT_ARGS"] == "--a=1 --b=$HOME"
    logs = sorted((cloud.folder / "bucket").rglob("log"))
    codes = sorted((cloud.folder / "bucket").rglob("exit"))
    assert len(logs) == len(codes) == 2 and all("learned" in log.read_text() for log in logs)
    assert [code.read_text() for code in codes] == ["0\n", "0\n"]
    out, _ = cloud.run("status")
    assert out.startswith("msm: ACTIVE") and out.count("exit 0") == 2 and "learned" in out
    out, _ = cloud.run("logs", "--lines=1")
    assert out.count("learned") == 2 and "==> worker msm:1 <==" in out
    # Once done it is done; --again starts it once more.
    _, err = cloud.run("run", *TRAIN)
    assert "ended well already" in err and len(cloud.programs()) == 2
    cloud.run("run", "--again", *TRAIN)
    assert len(cloud.programs()) == 4


def test_arguments_arrive_as_they_were_written(cloud):
    cloud.run("create")
    cloud.run("setup")
    words = [
        "--a=it's two words",
        '--b="$(touch pwned)`touch pwned`',
        "--c=*;touch pwned",
        "--d=é\n",
    ]
    cloud.run("run", "msm_jax.study", *words)
    assert [one["argv"] for one in cloud.programs()] == [
        ["program", "-m", "msm_jax.study", *words]
    ] * 2
    assert not list(cloud.folder.rglob("pwned")) and not list(cloud.repository.rglob("pwned"))


def test_secrets_are_in_no_argv_metadata_or_log(cloud):
    secret = "sk-ant-4f$x 'q\"9"
    cloud.settings("KEYS=SECRET_KEY")
    cloud.run("create", SECRET_KEY=secret)
    outputs = [
        cloud.run("setup", code=2)
    ]  # a key that is not there is reported before anything is sent
    assert "SECRET_KEY is not set" in outputs[0][1]
    outputs += [cloud.run("setup", SECRET_KEY=secret), cloud.run("run", *TRAIN, SECRET_KEY=secret)]
    outputs += [cloud.run("logs"), cloud.run("status")]
    assert [one["key"] for one in cloud.programs()] == [secret] * 2
    part = secret[:9]
    assert part not in json.dumps(outputs) + json.dumps([one["argv"] for one in cloud.records()])
    holders = [
        path
        for path in cloud.folder.rglob("*")
        if path.is_file()
        and part in path.read_text(errors="replace")
        and path.name != "calls.jsonl"
    ]
    assert {path.name for path in holders} == {"keys.sh"} and len(holders) == 2
    for path in holders:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
    _, err = cloud.run("run", *TRAIN, f"--key={secret}", code=2, SECRET_KEY=secret)
    assert "SECRET_KEY is in the arguments" in err and part not in err
    _, err = cloud.run("run", *TRAIN, "--token=hf_" + "a1B2" * 8, code=2)
    assert "use KEYS" in err and "a1B2" not in err


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_commands_and_runs_none(cloud, script):
    words = TRAIN if script in ("run", "babysit") else ()
    out, _ = cloud.run(script, "--dry-run", *words)
    assert cloud.records() == []
    assert out.startswith("gcloud compute tpus ")
    if script in ("run", "babysit"):
        assert re.search(r"worker\\ start\\ .*--workdir=runs/midtrain", out)
    for line in out.splitlines():
        assert re.match(
            "gcloud compute tpus (queued-resources|tpu-vm) [a-z]+ |git |gcloud storage", line
        )


# ------------------------------------------------------------------ faults


def test_preempted_three_times_and_finished(cloud):
    preempted = [{"until": until, "preempt": True} for until in (5, 11, 17)]
    cloud.script(creations=[["PROVISIONING", "ACTIVE"]], runs=[*preempted, {"until": 30}])
    _, err = cloud.run("babysit", "--delete", *TRAIN)
    assert cloud.world["created"] == 4 and cloud.world["resource"] is None
    assert "preempted or stopped, 3 times" in err
    assert (cloud.folder / "shared" / "runs" / "step").read_text() == "30"
    # Every suspended resource was deleted by the reference's words, and the last at the end.
    deletes = cloud.calls(*RESOURCE, "delete")
    assert len(deletes) == 4
    assert deletes[0] == [*RESOURCE, "delete", "msm", "--force", "--quiet", "--async", *WHERE]


@pytest.mark.parametrize("failures, code", [(1, 0), (99, 1)])
def test_ssh_that_fails_on_one_worker(cloud, failures, code):
    cloud.script(ssh_failures={"1": failures})
    cloud.run("create")
    _, err = cloud.run("setup", code=code)
    assert "no answer from worker msm:1" in err and "Connection refused" in err
    asked = [argv[8] for argv in cloud.calls(*VM, "ssh")]
    assert asked[:2] == ["--worker=all", "--worker=1"]  # the other is not asked again
    if code:
        assert "given up after 3 tries: worker msm:1 cannot be reached" in err


def test_a_cloud_that_cannot_be_asked_is_no_preemption(cloud):
    cloud.run("create")
    cloud.run("setup")
    world = cloud.world
    broken = {"describe_errors": ["INTERNAL: 500"] * 9, "ssh_failures": {"1": 99}}
    (cloud.folder / "world.json").write_text(json.dumps({**world, **broken}))
    _, err = cloud.run("run", *TRAIN, code=1)
    assert "worker msm:1 cannot be reached" in err


ERRORS = {
    "quota": "RESOURCE_EXHAUSTED: Quota limit 'TPUV5PPreemptible' has been exceeded. Limit: 16",
    "permission": "PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on 'projects/x'",
    "zone": "NOT_FOUND: zone us-east5-z was not found",
}


@pytest.mark.parametrize("kind", ERRORS)
def test_what_only_the_user_can_fix_stops_at_once(cloud, kind):
    cloud.script(create_errors=[ERRORS[kind]] * 99)
    _, err = cloud.run("babysit", *TRAIN, code=2)
    assert len(cloud.calls(*RESOURCE, "create")) == 1
    assert {"quota": "TPUV5PPreemptible", "permission": "tpu.nodes.create"}.get(kind, "zone") in err


def test_a_quota_error_of_a_failed_resource_stops_too(cloud):
    cloud.script(creations=[["FAILED"]], reason="Quota 'TPUS_PER_PROJECT' exceeded")
    _, err = cloud.run("create", code=2)
    assert "TPUS_PER_PROJECT" in err and cloud.world["created"] == 1


def test_errors_in_passing_and_a_failed_resource_are_tried_again(cloud):
    cloud.script(
        creations=[["FAILED"], ["CREATING", "SUSPENDED"], ["ACTIVE"]],
        reason="There is no more capacity in the zone",
        create_errors=["UNAVAILABLE: try again"],
        describe_errors=["INTERNAL: 500", "DEADLINE_EXCEEDED"],
    )
    cloud.run("create")
    assert cloud.world["created"] == 3


def test_a_resource_that_always_fails_is_given_up(cloud):
    cloud.script(creations=[["FAILED"]], reason="internal")
    _, err = cloud.run("create", code=1)
    assert "failed 3 times: internal" in err and cloud.world["created"] == 3


def test_a_users_error_is_not_tried_again(cloud):
    cloud.script(runs=[{"code": 2}])
    _, err = cloud.run("babysit", *TRAIN, code=2)
    assert cloud.world["created"] == 1 and len(cloud.programs()) == 2
    assert "worker msm:1: exit 2" in err and "no such file" in cloud.run("logs")[0]


def test_a_crash_is_tried_again_but_not_for_ever(cloud):
    cloud.script(runs=[{"code": 1}])
    cloud.settings("TRIES=2")
    _, err = cloud.run("babysit", *TRAIN, code=1)
    assert len(cloud.programs()) == 2 * 2, err
    assert "given up after 2 failures" in err


def test_the_launcher_is_killed_and_started_again(cloud):
    cloud.script(creations=[["PROVISIONING", "ACTIVE"]], runs=[{"gate": True}])
    first = cloud.start("babysit", *TRAIN)
    wait(lambda: len(cloud.programs()) == 2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    _, err = cloud.run("run", "msm_jax.train", "--other=1", code=2)
    assert "another run is in progress" in err
    again = cloud.start("babysit", *TRAIN)
    wait(lambda: str(cloud.calls(*VM, "ssh")).count("launch/worker start") == 2)
    cloud.open_gate()
    _, err = again.communicate()
    assert again.returncode == 0 and "attaching to the run in progress" in err
    assert cloud.world["created"] == 1 and len(cloud.programs()) == 2


def test_stopped_by_hand_it_leaves_all_as_it_is(cloud):
    cloud.script(runs=[{"gate": True}])
    first = cloud.start("babysit", "--delete", *TRAIN)
    wait(lambda: len(cloud.programs()) == 2)
    first.terminate()
    _, err = first.communicate()
    assert first.returncode == 130 and "the run goes on without me" in err
    assert cloud.run("status")[0].count("running") == 2
    cloud.open_gate()
    cloud.run("babysit", "--delete", *TRAIN)
    assert len(cloud.programs()) == 2 and cloud.world["resource"] is None


def test_killed_between_two_workers_the_start_is_completed(cloud):
    cloud.script(runs=[{"gate": True}])
    cloud.run("create")
    cloud.run("setup")
    cloud.run("run", "--detach", *TRAIN)
    wait(lambda: len(cloud.programs()) == 2)
    machine = cloud.folder / "machines" / "msm-1" / "msm_jax-msm" / "run"
    [pid] = machine.glob("*/pid")
    os.killpg(int(pid.read_text()), signal.SIGKILL)
    shutil.rmtree(machine)
    machine.mkdir()
    cloud.open_gate()
    cloud.run("run", *TRAIN)
    assert [one["env"]["WORKER"] for one in cloud.programs()].count("1") == 2
    assert [one["env"]["WORKER"] for one in cloud.programs()].count("0") == 1


def test_a_worker_that_dies_is_no_success(cloud):
    cloud.script(runs=[{"gate": True}])
    cloud.run("create")
    cloud.run("setup")
    cloud.run("run", "--detach", *TRAIN)
    wait(lambda: len(cloud.programs()) == 2)
    [pid] = cloud.folder.glob("machines/msm-1/*/run/*/pid")
    os.killpg(int(pid.read_text()), signal.SIGKILL)
    cloud.open_gate()
    _, err = cloud.run("run", *TRAIN, code=1)
    assert "worker msm:1: exit 137" in err


def test_stop_saves_and_the_run_goes_on_later(cloud):
    cloud.script(runs=[{"gate": True}, {}])
    cloud.run("create")
    cloud.run("setup")
    running = cloud.start("run", *TRAIN)
    wait(lambda: len(cloud.programs()) == 2)
    out, err = cloud.run("setup")
    assert "left as they are" in err
    cloud.run("stop")
    cloud.run("stop")
    running.communicate()
    assert running.returncode == 75
    cloud.run("run", *TRAIN)
    assert len(cloud.programs()) == 4


def test_delete_ends_only_when_all_is_gone(cloud):
    cloud.run("delete")  # nothing is there
    cloud.script(
        creations=[["PROVISIONING"]],
        delete_errors=["UNAVAILABLE: later", "FAILED_PRECONDITION: being provisioned"],
        strays=["msm"],
    )
    creating = cloud.start("create")
    wait(lambda: (cloud.folder / "world.json").exists() and "resource" in cloud.world)
    os.killpg(creating.pid, signal.SIGKILL)
    creating.communicate()
    _, err = cloud.run("delete")
    assert cloud.world["resource"] is None and cloud.world["strays"] == []
    assert cloud.calls(*VM, "delete") == [[*VM, "delete", "msm", "--quiet", *WHERE]]
    cloud.script(creations=[["ACTIVE"]], delete_errors=[ERRORS["permission"]])
    cloud.run("create")
    cloud.run("delete", code=2)


def test_logs_come_from_the_bucket_when_the_workers_are_gone(cloud):
    cloud.run("babysit", "--delete", *TRAIN)
    out, _ = cloud.run("logs")
    assert out.count("learned") == 2


@pytest.mark.parametrize(
    "more, words",
    [
        ("NAME=", "NAME is not set"),
        ("PROVISION=cheap", "PROVISION=cheap"),
        ("ACCELERATOR=v5p", "ACCELERATOR=v5p"),
        ("BACKEND=ssh", "HOSTS is not set"),
    ],
)
def test_wrong_settings_are_reported_before_anything_is_called(cloud, more, words):
    cloud.settings(more)
    _, err = cloud.run("create", code=2)
    assert words in err and not cloud.calls(*RESOURCE, "create")
    _, err = cloud.run("create", "--dryrun", code=2)
    assert "unknown option --dryrun" in err


def test_the_example_settings_are_read(cloud, root):
    example = str(root / "launch" / "settings.example.sh")
    out, _ = cloud.run("create", "--dry-run", SETTINGS=example)
    assert "--accelerator-type=v5p-128 --runtime-version=v2-alpha-tpuv5 --node-id=msm-32b" in out


def wait(state):
    end = time.time() + 300
    while not state():
        assert time.time() < end
        time.sleep(0.02)
