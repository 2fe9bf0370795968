"""What launch/ says to gcloud and makes of its errors; the real gcloud parses it."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
GCLOUD = shutil.which("gcloud")
LOGIN = (
    "You do not currently have an active account selected.\nPlease run:\n\n  $ gcloud auth login"
)
OWN = "NOT_FOUND: Resource 'projects/p/locations/z/{}' was not found. This command is authenticated"
TRAIN = ("msm_jax.train", "--config=c.py")

# The error that gcloud prints -> what it means.
ERRORS = {
    "gone": [OWN.format("queuedResources/msm")],
    "gcloud auth login": [
        LOGIN,
        "There was a problem refreshing your current auth tokens: ('invalid_grant: Bad Request')",
        "There was a problem refreshing your current auth tokens: Reauthentication failed. cannot "
        "prompt during non-interactive execution.",
        "UNAUTHENTICATED: Request had invalid authentication credentials.",
    ],
    "ssh-add": ['SSH Key is not present in the SSH agent. Please run "ssh-add key" to add it'],
    "billing/linkedaccount": [
        "PERMISSION_DENIED: This API method requires billing to be enabled. BILLING_DISABLED"
    ],
    "gcloud services enable": [
        "PERMISSION_DENIED: Cloud TPU API has not been used in project 7 or it is disabled.",
        "PERMISSION_DENIED: reason: SERVICE_DISABLED",
    ],
    "request quota": ["RESOURCE_EXHAUSTED: Quota limit 'TPUV5PPreemptible' has been exceeded."],
    "the roles": ["PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on 'projects/x'"],
    "correct": [
        "INVALID_ARGUMENT: Accelerator type v5p-17 is not supported",
        "Invalid value for [--max-run-duration]: 7x",
        "unrecognized arguments: --tunnel-through-iap",
        "argument --node-count: expected one argument",
        "Error parsing [location].\nThe [location] resource is not properly specified.",
    ],
    "gcloud info": [
        "bash: line 1: gcloud: command not found",
        "Python was not found; run without arguments to install from the Microsoft Store",
        "The configuration [default] was not found",
        "/usr/bin/env: 'python3': No such file or directory",
    ],
    "does not exist": [
        OWN.format("queuedResources/msm-2"),
        OWN.format("nodes/msm"),
        "NOT_FOUND: Resource 'projects/p' was not found",
        "Project 'msm' not found or deleted.",
    ],
    "passing": [
        "UNAVAILABLE: 503",
        "INTERNAL: an internal error has occurred",
        "DEADLINE_EXCEEDED",
        "HttpError accessing <https://tpu.googleapis.com>: response: <{'status': '502'}>",
        "('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))",
        "There was a problem refreshing your current auth tokens: HTTPSConnectionPool(host='oauth2."
        "googleapis.com', port=443): Max retries exceeded\nPlease run: $ gcloud auth login",
        "read ECONNRESET",
        "RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Requests' and limit 'Requests per "
        "minute' of service 'tpu.googleapis.com'. reason: RATE_LIMIT_EXCEEDED",
        'There is no more capacity in the zone "us-east5-a"',
        "The zone 'us-east5-a' does not have enough resources available",
        "FAILED_PRECONDITION: the queued resource is being provisioned",
        "something that nobody has seen before",
    ],
}
MEANING = """
source {root}/launch/lib.sh
PROJECT=p ZONE=z NAME=msm SETTINGS=s
while IFS= read -r error; do
  if gone "$error" queued-resources msm; then echo gone
  elif ! advice "$error"; then echo passing; fi
done
"""


def meanings(errors: list[str], **environment: str) -> list[str]:
    """What launch/gcloud.sh makes of each, by one bash."""
    lines = "".join(text.replace("\n", " ") + "\n" for text in errors)
    script = ["bash", "-c", MEANING.format(root=ROOT)]
    done = subprocess.run(
        script, input=lines, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_error_is_gone_or_passing_or_says_what_to_do():
    pairs = [(meaning, text) for meaning, texts in ERRORS.items() for text in texts]
    found = meanings([f"ERROR: (gcloud.compute.tpus.x) {text}" for _, text in pairs])
    both = zip(pairs, found, strict=True)
    assert not [(text, answer) for (meaning, text), answer in both if meaning not in answer]


def test_after_a_preemption_quota_may_come_back_but_nothing_else_does():
    texts = [*ERRORS["request quota"], *ERRORS["the roles"]]
    quota, roles = meanings(texts, AFTER_PREEMPTION="1")
    assert quota == "passing" and "the roles" in roles


@pytest.mark.parametrize("code, text", [(127, "gcloud: command not found"), (1, LOGIN), (1, "odd")])
def test_what_could_not_be_asked_for_may_still_cost_money(cloud, code, text):
    """Neither launch/delete nor babysit --delete says that something has gone."""
    cloud.settings("TRIES=2")
    gcloud = cloud.folder / "bin" / "gcloud"
    gcloud.write_text(
        f"#!/bin/sh\necho {shlex.quote('ERROR: (gcloud.x) ' + text)} >&2\nexit {code}\n"
    )
    wanted = 1 if text == "odd" else 2
    _, err = cloud.run("delete", code=wanted)
    assert "msm may still exist in us-east5-a of my-project and cost money" in err
    assert "is gone" not in err and text.split("\n")[0] in err
    if wanted == 2:
        _, err = cloud.run("babysit", "--delete", *TRAIN, code=1)
        assert "may still exist" in err and "is gone" not in err and "again in" not in err


def test_a_node_that_could_not_be_asked_for_may_still_cost_money(cloud):
    cloud.script(node_error="PERMISSION_DENIED: Permission 'tpu.nodes.get' denied")
    _, err = cloud.run("delete", code=2)
    assert "may still exist" in err and "tpu.nodes.get" in err


def test_a_login_that_ends_during_a_run_is_not_tried_again(cloud):
    cloud.run("create")
    world = {**cloud.world, "ssh_error": LOGIN}
    (cloud.folder / "world.json").write_text(json.dumps(world))
    _, err = cloud.run("setup", code=2)
    assert "run gcloud auth login" in err
    assert len(cloud.calls("gcloud", "compute", "tpus", "tpu-vm", "ssh")) == 1


def test_quota_just_after_a_preemption_is_waited_for(cloud):
    quota = ERRORS["request quota"][0]
    cloud.script(creations=[["SUSPENDED"], ["ACTIVE"]], create_errors=[None, quota])
    cloud.run("create")
    assert cloud.world["created"] == 2


def dry(cloud, script: str, more: str = "", code: int = 0) -> tuple[list[list[str]], str]:
    """The gcloud argvs of --dry-run with settings, and what it said."""
    cloud.settings(more)
    words = TRAIN if script in ("run", "babysit") else ()
    out, err = cloud.run(script, "--dry-run", *words, code=code)
    return [shlex.split(line) for line in out.splitlines() if line.startswith("gcloud ")], err


def test_iap_and_batches_go_through_queued_resources(cloud):
    """gcloud 528: only they have the flags outside of alpha."""
    argvs, _ = dry(cloud, "setup", "SLICES=2\nSSH_ARGUMENTS=(--tunnel-through-iap)")
    by = ["--zone=us-east5-a", "--project=my-project", "--worker=all"]
    found = {(argv[3], argv[4], argv[-2 if argv[4] == "scp" else -3]) for argv in argvs}
    assert found == {
        ("queued-resources", verb, f"--node={node}") for verb in ("ssh", "scp") for node in (0, 1)
    }
    for argv in argvs:
        assert argv[-1] == "--tunnel-through-iap" and set(by) < set(argv)
        assert ("msm" if argv[4] == "ssh" else "msm:msm_jax-msm/") in argv
    _, err = dry(cloud, "status", "ACCELERATOR=v5p-1024\nSSH_ARGUMENTS=(--tunnel-through-iap)", 2)
    assert "64 of 128 workers" in err
    _, err = dry(cloud, "status", "SSH_ARGUMENTS=(--batch-size=1)", 2)
    assert "1 of 2 workers" in err


def test_flex_start_is_asked_for_by_alpha(cloud):
    argvs, _ = dry(cloud, "create", "PROVISION=flex-start MAX_RUN_DURATION=3d")
    [create] = [argv for argv in argvs if "create" in argv]
    assert create[:5] == "gcloud alpha compute tpus queued-resources".split()
    assert {"--provisioning-model=flex-start", "--max-run-duration=3d"} < set(create)
    assert not any("alpha" in argv for argv in argvs if argv is not create)


def test_tpu7x_says_what_it_needs(cloud):
    _, err = dry(cloud, "create", "ACCELERATOR=tpu7x-8", 2)
    assert "GKE" in err and "Compute Engine" in err


def documented() -> list[list[str]]:
    """The gcloud compute tpus commands of all pages."""
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "launch" / "README.md", ROOT / "README.md"]
    found = []
    for page in pages:
        text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
        spans = re.findall(r"`(gcloud [^`]*)`", text) + re.findall(r"^ {4}(gcloud .*)$", text, re.M)
        found += [shlex.split(span) for span in spans]
    return [argv for argv in found if " compute tpus " in " ".join(argv)]


def test_documented_commands_name_the_zone():
    """Without one they fail where gcloud's configuration has no default."""
    commands = documented()
    assert len(commands) >= 4
    assert not [argv for argv in commands if not any(word.startswith("--zone=") for word in argv)]


VARIANTS = {
    "create": ["", "SLICES=2 PROVISION=reserved", "PROVISION=flex-start", "PROVISION=on-demand"],
    "setup": [
        "",
        "SLICES=2\nSSH_ARGUMENTS=(--tunnel-through-iap)",
        "SSH_ARGUMENTS=(--internal-ip)",
    ],
    "babysit": ["SSH_ARGUMENTS=(--batch-size=all)"],
    "delete": ["", "SLICES=2"],
    **{script: [""] for script in ("run", "status", "logs", "stop")},
}


@pytest.mark.skipif(not GCLOUD, reason="needs gcloud on PATH")
def test_the_real_gcloud_parses_every_command(cloud):
    """It gets as far as asking for a login, which it does not have here."""
    argvs = [argv for script, settings in VARIANTS.items() for more in settings
             for argv in dry(cloud, script, more)[0] if "storage" not in argv]  # fmt: skip
    argvs += documented()
    # Scripts that a worker runs are long and all alike to gcloud.
    short = [
        [re.sub("(?s)^--command=.*", "--command=true", word) for word in argv] for argv in argvs
    ]
    short = [argv[1:] for argv in map(list, dict.fromkeys(map(tuple, short)))]
    environment = {
        **os.environ,
        "CLOUDSDK_PYTHON_ARGS": f"-S {HERE / 'real_gcloud.py'}",
        "CLOUDSDK_CONFIG": str(cloud.folder / "config"),
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
    }
    environment.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        [GCLOUD], input=json.dumps(short), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert len(answers) == len(short) > 10
    wrong = [
        (" ".join(argv), text)
        for argv, (_, text) in zip(short, answers, strict=True)
        if "have an active account selected" not in text
    ]
    assert not wrong
