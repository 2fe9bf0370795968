"""The same scripts for machines that are there already, reached by plain ssh."""

import json

import pytest
from processes import free_port, losses, write_config

from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.tokenizer import train_sentencepiece
from msm_jax.train.config import source, stage

SETTINGS = """
BACKEND=ssh
HOSTS="me@box1 me@box2"
EXTRA=gpu
BUCKET=
ENVIRONMENT=(JAX_PLATFORMS=cpu)
"""


@pytest.fixture
def boxes(cloud):
    cloud.settings(SETTINGS)
    return cloud


def test_the_verbs_work_by_ssh_and_none_calls_gcloud(boxes):
    boxes.settings(SETTINGS + "SSH_ARGUMENTS=(-p 2222)")
    boxes.script(ssh_failures={"me@box2": 1}, runs=[{"gate": True}, {}])
    boxes.run("create")
    _, err = boxes.run("setup")
    assert "no answer from worker msm:1" in err
    [pip] = {tuple(argv) for argv in boxes.calls("uv", "pip")}
    assert pip[-1] == "./source[gpu]"
    boxes.run("run", "--detach", "msm_jax.train", "--a=b c")
    out, _ = boxes.run("status")
    assert out.count("running") == 2
    boxes.run("stop")
    boxes.run("run", "msm_jax.train", "--a=b c")
    flags = ["--coordinator=box1:8476", "--processes=2"]
    words = [one["argv"][2:] for one in boxes.programs()]
    wanted = [["msm_jax.train", "--a=b c", *flags, f"--process={i}"] for i in (0, 1)]
    assert sorted(words) == sorted(wanted * 2)
    out, _ = boxes.run("logs")
    assert out.count("learned") == 2 and "==> worker msm:1 <==" in out
    boxes.run("delete")
    assert not boxes.calls("gcloud") and not boxes.calls("curl")
    begun = "ssh -o BatchMode=yes -p 2222".split()
    assert {tuple(argv[:5]) for argv in boxes.calls("ssh")} == {tuple(begun)}
    assert {argv[5] for argv in boxes.calls("ssh")} == {"me@box1", "me@box2"}
    assert boxes.calls("scp")[0][:6] == "scp -q -o BatchMode=yes -P 2222".split()


def test_one_machine_is_given_no_flags(boxes):
    boxes.settings(SETTINGS + "HOSTS=me@box")
    boxes.run("setup")
    boxes.run("run", "msm_jax.study", "--config=c.py")
    assert [one["argv"][2:] for one in boxes.programs()] == [["msm_jax.study", "--config=c.py"]]


def test_two_machines_really_train_together(boxes, real_python, tmp_path):
    """The real msm_jax.train as two processes, from setup to the last step."""
    texts = ["red blue. green big.", "small round. flat old.", "new cheap. red green."] * 40
    (tmp_path / "corpus.txt").write_text("\n".join(texts))
    documents = tmp_path / "documents.jsonl"
    documents.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    controls = CHAT_FORMATS["compact"].control_tokens
    train_sentencepiece(tmp_path / "corpus.txt", tmp_path / "t.model", 70, controls)
    config = stage()
    config.tokenizer = str(tmp_path / "t.model")
    config.data.documents = source(str(documents))
    config.sequence_length, config.rows, config.steps = 24, 4, 4
    sizes = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp_width": 32}
    config.model.update(sizes)
    config.checkpoint_every, config.log_every = 4, 1
    # What is compiled may be slow, and is compiled soon.
    quick = "ENVIRONMENT+=(XLA_FLAGS=--xla_backend_optimization_level=0)"
    boxes.settings(SETTINGS + f"COORDINATOR=127.0.0.1:{free_port()}\nPOLL=0.3\n{quick}")
    _, err = boxes.run("setup")
    for number in (0, 1):
        assert f"worker {number}: Python 3." in err
    assert err.count("1 of 2 x cpu") == 2  # they have found each other
    path = write_config(config, tmp_path)
    words = ("msm_jax.train", f"--config={path}", "--workdir=runs/tiny")
    boxes.run("run", *words)
    assert sorted(losses(boxes.folder / "shared" / "runs" / "tiny")) == [1, 2, 3, 4]
