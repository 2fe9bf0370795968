"""gcloud, ssh, scp, gsutil, uv and a training program that are not there.

Called with one of those names first. $FAKE is a directory: script.json says what happens,
calls.jsonl records every argv, machines/NODE-WORKER are the homes of workers, in which commands
really run, bucket/ is the bucket. Its lock makes every call see one world.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import signal
import sys
import time

FAKE = pathlib.Path(os.environ["FAKE"])
NAME, *ARGV = sys.argv[1:]


class World:
    """world.json while the lock is held; starts as script.json."""

    def __enter__(self):
        self._lock = open(FAKE / "lock", "w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        path = FAKE / "world.json"
        self.data = json.loads((path if path.exists() else FAKE / "script.json").read_text())
        return self.data

    def __exit__(self, *error):
        temporary = FAKE / f"world.{os.getpid()}"  # renamed: programs are killed in here
        temporary.write_text(json.dumps(self.data))
        temporary.replace(FAKE / "world.json")
        self._lock.close()


def option(name, default=None):
    return next((one.split("=", 1)[1] for one in ARGV if one.startswith(f"--{name}=")), default)


def fail(text):
    print(text, file=sys.stderr)
    sys.exit(1)


def kill_machines():
    for pid in FAKE.glob("machines/*/*/run/*/pid"):
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)
    import shutil  # is started hundreds of times, and these two take half as long as all else

    shutil.rmtree(FAKE / "machines", ignore_errors=True)


def current(world):
    """The queued resource's state now; the training program may have asked to be preempted."""
    resource = world.get("resource")
    if resource and (FAKE / "preempt").exists():
        (FAKE / "preempt").unlink()
        resource["states"] = ["SUSPENDING", "SUSPENDED"]
        kill_machines()
    return resource


def not_found(group, verb, name):
    """As gcloud says it (github.com/marin-community/marin/issues/3404)."""
    kind = "nodes" if group == "tpu-vm" else "queuedResources"
    path = f"projects/my-project/locations/us-east5-a/{kind}/{name}"
    fail(
        f"ERROR: (gcloud.compute.tpus.{group}.{verb}) NOT_FOUND: Resource '{path}' was not found. "
        "This command is authenticated as t@t.org which is the active account specified by the "
        "[core/account] property\n- '@type': type.googleapis.com/google.rpc.ResourceInfo\n"
        f"  resourceName: {path}"
    )


def queued_resources(verb, name):
    with World() as world:
        resource = current(world)
        errors = world.get(f"{verb}_errors", [])  # None: this time there is none
        if errors and (error := errors.pop(0)):
            fail(f"ERROR: (gcloud.compute.tpus.queued-resources.{verb}) {error}")
        if verb == "create":
            if resource:
                fail("ERROR: (gcloud) ALREADY_EXISTS: Resource already exists")
            creations = world["creations"]
            states = creations.pop(0) if len(creations) > 1 else list(creations[0])
            world["resource"] = {"states": states, "reason": world.get("reason", "")}
            world["created"] = world.get("created", 0) + 1
        elif not resource:
            not_found("queued-resources", verb, name)
        elif verb == "describe":
            states = resource["states"]
            print(states[0], resource["reason"], sep="\t")
            if len(states) > 1:
                states.pop(0)
            elif states[0] == "DELETING":
                world["resource"] = None
        elif verb == "delete":
            resource["states"] = ["DELETING"]
            kill_machines()


def tpu_vm(verb, *words):
    words = [word for word in words if not word.startswith("-")]
    name = words[-1].partition(":")[0]
    with World() as world:
        resource = current(world)
        strays = world.get("strays", [])
        if verb == "delete" and name in strays:
            strays.remove(name)
            return
        if verb in ("describe", "delete"):
            if error := world.get("node_error"):
                fail(f"ERROR: (gcloud.compute.tpus.tpu-vm.{verb}) {error}")
            if name not in strays:
                not_found("tpu-vm", verb, name)
            print("READY")
            return
        if not resource or resource["states"][0] != "ACTIVE":
            fail(f"ERROR: (gcloud.compute.tpus.tpu-vm.{verb}) TPU {name} is not READY")
        if error := world.get("ssh_error"):
            fail(f"ERROR: (gcloud.compute.tpus.tpu-vm.{verb}) {error}")
        asked = option("worker", "0")
        workers = range(world["workers"]) if asked == "all" else map(int, asked.split(","))
        failures = world.get("ssh_failures", {})
        reached, refused = [], []
        for worker in workers:
            if failures.get(str(worker), 0) > 0:
                failures[str(worker)] -= 1
                refused.append(worker)
            else:
                reached.append(worker)
    if verb == "scp":
        code = max((copy(words[:-1], home(name, w), words[-1]) for w in reached), default=0)
    else:
        code = max(at([(home(name, worker), {}, option("command")) for worker in reached]))
    for worker in refused:
        print("ssh: connect to host 10.0.0.9 port 22: Connection refused", file=sys.stderr)
        print(
            f"##### Command execution on worker {worker} failed with exit status 255. Continuing.",
            file=sys.stderr,
        )
    sys.exit(1 if refused or code else 0)


def home(node, worker):
    path = FAKE / "machines" / f"{node}-{worker}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def copy(files, folder, destination):
    folder = folder / destination.partition(":")[2]
    if not folder.is_dir():
        print(f"scp: {folder}: No such file or directory", file=sys.stderr)
        return 1
    for file in files:
        pathlib.Path(folder, os.path.basename(file)).write_bytes(pathlib.Path(file).read_bytes())
    return 0


def at(commands):
    """Runs (home, environment, command) each, at once, as sshd does."""
    import subprocess

    started = []
    for folder, environment, command in commands:
        kept = {name: os.environ[name] for name in ("FAKE", "PATH", "REAL_PYTHON", "REAL_PATH")}
        started.append(
            subprocess.Popen(
                ["bash", "-c", command],
                cwd=folder,
                env={**kept, **environment, "HOME": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    for process in started:
        sys.stdout.write(process.communicate()[0].decode())
    return [process.returncode for process in started] or [0]


def ssh(host, command):
    with World() as world:
        failures = world.get("ssh_failures", {})
        if failures.get(host, 0) > 0:
            failures[host] -= 1
            print(f"ssh: connect to host {host} port 22: Connection refused", file=sys.stderr)
            sys.exit(255)
    sys.exit(at([(home(host, 0), {}, command)])[0])


def storage(verb, *words):
    local = lambda url: FAKE / "bucket" / url.removeprefix("gs://")
    words = [word for word in words if not word.startswith("--")]
    if verb == "cp":
        target = local(words[-1])
        target.mkdir(parents=True, exist_ok=True)
        for file in words[:-1]:
            (target / os.path.basename(file)).write_bytes(pathlib.Path(file).read_bytes())
    elif verb == "ls":
        root, _, end = words[0].partition("/**/")
        for path in sorted(local(root).rglob(end)):
            print(f"gs://{path.relative_to(FAKE / 'bucket')}")
    elif verb == "cat":
        sys.stdout.write(local(words[0]).read_text())


def uv(*words):
    if words[0] == "venv":
        python = pathlib.Path(words[-1], "bin", "python")
        python.parent.mkdir(parents=True, exist_ok=True)
        path, real = os.environ["REAL_PATH"], os.environ["REAL_PYTHON"] or FAKE / "bin" / "program"
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec "{real}" "$@"\n')
        python.chmod(0o755)


def program(*words):
    """launch/devices.py, or a training that counts to 30 in shared/ and goes on where it was.

    Its plan is {"until": steps, "gate": count on until $FAKE/open exists, "preempt": the TPU is
    taken away at the end, "code": the exit code}.
    """
    if words[0] != "-m":
        print("Python 3.11, jax 0.10, 4 of 8 x TPU v5")
        return
    with World() as world:
        runs = world["runs"]
        plan = runs[0]
        first = os.environ.get("WORKER") == "0"
        if first and len(runs) > 1:
            runs.pop(0)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    path = pathlib.Path("runs", "step")
    step = int(path.read_text()) if path.exists() else 0
    print(f"from step {step}, HOME is {os.environ['HOME']}")
    while step < plan.get("until", 30) or (plan.get("gate") and not (FAKE / "open").exists()):
        time.sleep(0.01)
        step += 1
        if first:
            temporary = path.with_suffix(f".{os.getpid()}")
            temporary.write_text(str(step))
            temporary.replace(path)
        if stopped:
            print("saved")
            sys.exit(75)
    if plan.get("preempt"):
        if first:  # one word of it: a second one would take the next TPU away as well
            (FAKE / "preempt").touch()
        signal.pause()
    print("error: no such file" if plan.get("code") else "learned")
    sys.exit(plan.get("code", 0))


with open(FAKE / "calls.jsonl", "a") as file:
    record = {"argv": [NAME, *ARGV]}
    if NAME == "program":
        record["key"] = os.environ.get("SECRET_KEY", "")
        record["env"] = {k: v for k, v in os.environ.items() if k in ("LIBTPU_INIT_ARGS", "WORKER")}
    file.write(json.dumps(record) + "\n")
if NAME == "gcloud" and ARGV[:2] == ["compute", "tpus"]:
    if ARGV[2] == "queued-resources":
        queued_resources(ARGV[3], ARGV[4])
    else:
        tpu_vm(*ARGV[3:])
elif NAME == "gcloud" or NAME == "gsutil":
    storage(*ARGV[1:])
elif NAME == "ssh":
    ssh(*ARGV[-2:])
elif NAME == "scp":
    words = [word for word in ARGV if word[0] in "/m"]  # files of the launcher, me@box:folder
    sys.exit(copy(words[:-1], home(words[-1].partition(":")[0], 0), words[-1]))
elif NAME == "uv":
    uv(*ARGV)
elif NAME == "program":
    program(*ARGV)
else:
    fail(f"fake.py does not play {NAME}")
