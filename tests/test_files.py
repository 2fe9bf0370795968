"""Files appear complete or not at all, and nothing outside of the named directory is touched."""

import errno
import json
import multiprocessing
import os
import warnings

import pytest

from msm_jax import files, links
from msm_jax.corpus.writers.journal import Journal
from msm_jax.errors import UserError
from msm_jax.train.metrics import Curves


def test_a_file_is_replaced_only_by_a_complete_one(tmp_path):
    path = tmp_path / "deep" / "a.json"
    files.write_json(path, {"a": float("nan"), "b": [1.5]})
    assert files.read_json(path) == {"a": None, "b": [1.5]}
    with pytest.raises(ZeroDivisionError), files.new_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert files.read_json(path) == {"a": None, "b": [1.5]}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_writing_never_follows_a_link_that_waits_under_the_temporary_name(tmp_path):
    private = tmp_path / "private"
    private.write_text("mine")
    (tmp_path / "a.json.partial").symlink_to(private)
    files.write_json(tmp_path / "a.json", 1)
    assert private.read_text() == "mine" and files.read_json(tmp_path / "a.json") == 1


def test_a_directory_appears_complete_and_never_over_another(tmp_path):
    with files.new_directory(tmp_path / "d") as temporary:
        (temporary / "x").write_text("1")
        assert not (tmp_path / "d").exists()
    assert (tmp_path / "d" / "x").read_text() == "1"
    with pytest.raises(UserError, match="not empty"), files.new_directory(tmp_path / "d"):
        pass
    with pytest.raises(ZeroDivisionError), files.new_directory(tmp_path / "e") as temporary:
        raise ZeroDivisionError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d"]


def test_of_racing_makers_of_a_directory_the_first_wins(tmp_path):
    make = lambda: files.new_directory(tmp_path / "d", racing=True)
    with make() as slow, make() as fast:
        (slow / "x").write_text("the same")
        (fast / "x").write_text("the same")
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["d", "d/x"]


def test_of_two_writers_of_a_directory_one_wins_and_the_other_gets_a_message(tmp_path):
    with files.new_directory(tmp_path / "d") as first:
        (first / "x").write_text("1")
        with (
            pytest.raises(UserError, match="d: another process is writing it"),
            files.new_directory(tmp_path / "d"),
        ):
            pass
        assert [p.name for p in first.iterdir()] == ["x"]
    assert [p.name for p in tmp_path.rglob("*")] == ["d", "x"]


@pytest.mark.parametrize("left", ["directory", "file", "link"])
def test_what_a_killed_writer_of_a_directory_left_is_no_obstacle(tmp_path, left):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "mine").write_text("1")
    temporary = tmp_path / ".d.partial"
    if left == "directory":
        (temporary / "deep").mkdir(parents=True)
    elif left == "file":
        temporary.write_text("half")
    else:
        temporary.symlink_to(tmp_path / "private")
    with files.new_directory(tmp_path / "d") as made:
        assert not list(made.iterdir())
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["d", "mine", "private"]


def test_jsonl_round_trip_with_what_breaks_readers(tmp_path):
    rows = [{"a": "x\u2028y\nz"}, {"a": "\ud800"}, {"a": "é"}]
    files.write_jsonl(tmp_path / "a.jsonl", rows)
    assert files.read_jsonl(tmp_path / "a.jsonl") == rows
    assert files.read_jsonl(tmp_path / "a.jsonl", limit=1) == rows[:1]
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write('{"torn": "é'.encode()[:-1])  # within a character
    assert files.read_jsonl(tmp_path / "a.jsonl") == rows
    assert files.read_jsonl(tmp_path / "missing.jsonl") == []
    (tmp_path / "b.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match=r"b.jsonl:1: is not a JSON object"):
        files.read_jsonl(tmp_path / "b.jsonl")


@pytest.mark.parametrize("path", ["..", "../other", ".", "sub/../../other", "link/x"])
def test_nothing_outside_is_deleted(tmp_path, path):
    for name in ("root/sub", "other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x").write_text("1")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="not inside"):
        files.delete(tmp_path / "root" / path, tmp_path / "root")
    assert (tmp_path / "other" / "x").exists() and (tmp_path / "root" / "sub" / "x").exists()


def test_a_link_is_deleted_and_not_what_it_points_to(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "other")
    files.delete(tmp_path / "root" / "link", tmp_path / "root")
    files.delete(tmp_path / "root" / "link", tmp_path / "root")  # nothing there: no error
    assert (tmp_path / "other").is_dir() and not (tmp_path / "root" / "link").is_symlink()


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "a\\b", "a\0b", "c:x", 3, None])
def test_what_a_file_names_is_a_name_and_no_path(tmp_path, name):
    assert not links.is_name(name) and links.is_name("a b+c@3.jsonl")
    with pytest.raises(UserError, match="cannot be the name of a file"):
        links.below(tmp_path, "sub", name)


def test_a_step_is_a_number_in_plain_digits():
    names = ("0", "7", "480", "007", "²", "٣", "-1", "1e3", "", "7.damaged")
    assert [*filter(links.is_step, names)] == ["0", "7", "480"]


def test_links_are_found_before_anything_is_read_or_written_through_them(tmp_path):
    (tmp_path / "root" / "stages" / "a" / "deep").mkdir(parents=True)
    (tmp_path / "named").symlink_to(tmp_path / "root")  # what the user names may be a link
    root, private = tmp_path / "named", tmp_path / "private"
    private.write_text("mine")
    (root / "stages" / "a" / "model").symlink_to(tmp_path)
    assert links.below(root, "stages", "a", "new") == root / "stages" / "a" / "new"
    links.refuse_links(root / "stages", allowed=["model"])
    links.refuse_links(root / "none")
    with pytest.raises(UserError, match="model: is a link to .*, and links are not followed"):
        links.below(root, "stages", "a", "model")
    for place, target in (("a/deep/x", private), ("b", tmp_path), ("a/deep/model", "gone")):
        (root / "stages" / place).symlink_to(target)
        with pytest.raises(UserError, match=f"{place}: is a link to"):
            links.refuse_links(root / "stages", allowed=["model"])
        (root / "stages" / place).unlink()


def test_what_is_written_in_place_is_a_file_and_no_link(tmp_path):
    private = tmp_path / "private"
    private.write_text("mine")
    (tmp_path / "log").symlink_to(private)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, says in (("log", "is a link to"), ("folder", "is not a file"), ("pipe", "move it")):
        with pytest.raises(UserError, match=f"{name}: .*{says}"):
            files.open_own(tmp_path / name, "a")
        with pytest.raises(UserError, match=f"{name}: "), files.lock(tmp_path / name, "busy"):
            pass
    assert private.read_text() == "mine"
    for text in "ab":
        with files.open_own(tmp_path / "new", "a") as file:
            file.write(text)
    files.rename(tmp_path / "new", "log")  # which replaces the link
    assert (tmp_path / "log").read_text() == "ab" and private.read_text() == "mine"


def test_a_link_in_a_models_directory_leads_to_its_own_cache_or_is_refused(tmp_path):
    hub = tmp_path / "hub"
    cache = hub / "models--org--name"
    snapshot = cache / "snapshots" / "abc"
    for folder in (cache / "blobs", snapshot / "sub", tmp_path / "plain", hub / "models--b/blobs"):
        folder.mkdir(parents=True)
    (cache / "blobs" / "1f").write_text("free")
    (tmp_path / "private").write_text("mine")
    (hub / "models--b" / "blobs" / "2e").write_text("gated")
    (cache / "blobs" / "evil").symlink_to(tmp_path / "private")
    (snapshot / "LICENSE").symlink_to("../../blobs/1f")
    (snapshot / "sub" / "LICENSE").symlink_to("../../../blobs/1f")
    (tmp_path / "link").symlink_to(snapshot)
    for folder in (snapshot, snapshot / "sub", tmp_path / "link"):
        files.copy(folder, "LICENSE", tmp_path / "copied")
        assert (tmp_path / "copied").read_text() == "free"
    (tmp_path / "plain" / "vocab.json").write_text("{}")
    (tmp_path / "plain" / "merges.txt").symlink_to("vocab.json")
    assert links.real_path(tmp_path / "plain", "merges.txt").name == "vocab.json"
    for number, (folder, target) in enumerate(
        (
            (tmp_path / "plain", tmp_path / "private"),
            (tmp_path / "plain", "../hub/models--org--name/blobs/1f"),
            (snapshot, "../../blobs/evil"),
            (snapshot, "../../../models--b/blobs/2e"),
            (snapshot, tmp_path / "private"),
        )
    ):
        (folder / f"{number}").symlink_to(target)
        with pytest.raises(UserError, match=rf"{number}: is a link to .* outside of the model's"):
            files.copy(folder, f"{number}", tmp_path / "stolen")
    assert not (tmp_path / "stolen").exists()


@pytest.mark.parametrize(
    "content",
    [b"{", b'{"a": 1}\0', b"[" * 100_000, b"9" * 5000, b"\xff", b'{"a": 1, "a": 2}', b"[]"],
)
def test_json_that_cannot_be_used_is_one_message(tmp_path, content):
    for name, ending in (("a.json", b""), ("a.jsonl", b"\n")):
        (tmp_path / name).write_bytes(content + ending)
    with pytest.raises(UserError, match=r"a\.json: .*: do this"):
        files.read_json(tmp_path / "a.json", {"a": int}, "do this")
    with pytest.raises(UserError, match=r"a\.jsonl:1: .*delete the file"):
        files.read_jsonl(tmp_path / "a.jsonl", form={"a": int})
    os.mkfifo(tmp_path / "pipe")
    for read in (files.read_json, files.read_jsonl):
        with pytest.raises(UserError, match="pipe: is not a regular file"):
            read(tmp_path / "pipe")


def _try(path, answers):
    try:
        with files.lock(path, "busy: wait"):
            answers.put("held")
    except UserError as error:
        answers.put(str(error))


def test_a_lock_keeps_other_processes_out(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with files.lock(tmp_path / "lock", "busy"):
        process = context.Process(target=_try, args=(tmp_path / "lock", answers))
        process.start()
        answer = answers.get()
        process.join()
    assert answer.startswith("busy: wait")


def test_a_lock_names_its_process_and_another_host(tmp_path, monkeypatch):
    with files.lock(tmp_path / "lock", "busy"):
        with pytest.raises(UserError) as here, files.lock(tmp_path / "lock", "busy"):
            pass
        monkeypatch.setattr(files.platform, "node", lambda: "elsewhere")
        with pytest.raises(UserError) as there, files.lock(tmp_path / "lock", "busy"):
            pass
    assert str(here.value) == f"busy (process {os.getpid()})"
    assert str(there.value).startswith(f"busy (process {os.getpid()} on ")


@pytest.mark.parametrize("kind, warned", [("fuse.gcsfuse", True), ("nfs4", False), ("ext4", False)])
def test_a_lock_on_a_mounted_bucket_warns_that_other_hosts_do_not_see_it(
    tmp_path, monkeypatch, kind, warned
):
    bucket = tmp_path / "a bucket"
    lines = [
        "root / ext4 rw 0 0",
        f"x {tmp_path}/a\\040bucket {kind} rw 0 0",
        f"x {tmp_path}/a fuse rw",
    ]
    monkeypatch.setattr(files, "MOUNTS", tmp_path / "mounts")
    files.MOUNTS.write_text("".join(f"{line}\n" for line in lines))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with files.lock(bucket / "run" / "lock", "busy"), files.lock(tmp_path / "lock", "busy"):
            pass
    texts = [str(one.message) for one in caught]
    assert len(texts) == warned and all("(fuse.gcsfuse)" in text for text in texts)


def test_a_file_system_without_locks_is_named_and_no_other_process_is_blamed(tmp_path, monkeypatch):
    import fcntl

    def flock(file, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.warns(UserWarning, match=r"a lock holds nobody out \(Function not implemented\)"),
        files.lock(tmp_path / "lock", "another process is training here"),
    ):
        pass


def test_what_is_appended_is_in_a_file_that_nobody_holds_open(tmp_path):
    """A mounted bucket keeps no more of a file than was there when it was closed."""
    for line in (b"1\n", b"2\n"):
        files.append(tmp_path / "rows", line)
        assert not held_open(tmp_path / "rows")
    assert (tmp_path / "rows").read_bytes() == b"1\n2\n"
    with Journal(tmp_path / "journal") as journal:
        writers = held_open(tmp_path / "journal")
        for key in ("a", "b"):
            journal.put(key, {"text": key})
        assert held_open(tmp_path / "journal") == writers  # for reading only
        assert journal.get("a") == {"key": "a", "text": "a"} and len(journal) == 2
    curves = Curves(tmp_path, 0)
    curves.write(1, {"loss": 2.0})
    inside = curves._file
    curves.sync()
    curves.write(2, {"loss": 1.0})
    curves.close()
    assert inside.closed
    rows = files.read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]


def held_open(path):
    """How many file descriptors of this process are open at a path."""
    return sum(
        os.path.realpath(f"/proc/self/fd/{fd}") == str(path) for fd in os.listdir("/proc/self/fd")
    )


def test_hashes_are_of_content(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    first = files.sha256_sources(tmp_path)
    assert files.sha256_sources(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert files.sha256_sources(tmp_path) != first
    assert files.sha256_json({"a": 1, "b": 2}) == files.sha256_json({"b": 2, "a": 1})
    assert len(json.dumps(files.sha256_text("\ud800"))) == 66
    with pytest.raises(UserError, match="cannot be read"):
        files.sha256_file(tmp_path / "none")


def test_of_two_racing_writers_the_first_wins_at_the_last_moment(tmp_path, monkeypatch):
    target, replace = tmp_path / "tokens", os.replace

    def beaten(source, to):
        target.mkdir()
        (target / "first").touch()
        return replace(source, to)

    monkeypatch.setattr(os, "replace", beaten)
    with files.new_directory(target, racing=True) as folder:
        (folder / "second").touch()
    assert [path.name for path in target.iterdir()] == ["first"]
    assert list(tmp_path.iterdir()) == [target]
