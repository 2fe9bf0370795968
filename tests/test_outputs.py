"""Where a command may write is known before it works."""

import os
import pathlib
import stat

import pytest

from msm_jax.errors import UserError
from msm_jax.outputs import UNREADABLE, output_dir, output_file


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "is empty: give a path"),
        ("  ", "is empty"),
        ("gs://bucket/runs/a", "gs:// is no file system: mount the bucket"),
        ("s3://bucket/a", "mount"),
        ("file:///tmp/a", "is no file system"),
        ("gs:/bucket/a", "mount"),  # as pathlib writes it
        ("~nobody-of-this-name/a", "write it out"),
        ("$HOME/runs", r"\$HOME is for the shell"),
        ("runs/${NAME}", r"\$\{NAME\} is for the shell"),
        ("runs/lr[1e-4]", r"could not be read again, because of '\['"),
        ("runs/a*", r"because of '\*'"),
        ("runs/why?", r"because of '\?'"),
        ("runs\\a", r"because of '\\\\'"),
        ("runs/a\nb", r"because of '\\n'"),
        ("runs/with:/a", "because of ':/'"),
        ("file", "is a file: give a directory"),
        ("file/below/it", "is a file: give another path"),
        ("dangling", "is a link to nothing"),
        ("dangling/a", "is a link to nothing"),
        ("x" * 300, "File name too long"),
        ("closed/a", "cannot be written"),
    ],
)
def test_a_place_that_cannot_hold_a_run_is_refused(path, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("file").write_text("")
    os.symlink("nowhere", "dangling")
    pathlib.Path("closed").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    before = sorted(tmp_path.rglob("*"))
    if path.startswith("closed") and os.access("closed", os.W_OK):
        # The superuser may write anywhere: what is asked of the system is asked in its place.
        real = os.access
        monkeypatch.setattr(
            os, "access", lambda place, mode: "closed" not in str(place) and real(place, mode)
        )
    with pytest.raises(UserError, match=rf"(?s)^--workdir.*({says})") as raised:
        output_dir(path, "--workdir")
    assert len(str(raised.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_directory_that_one_is_in_counts(tmp_path, monkeypatch):
    for character in UNREADABLE:
        folder = tmp_path / f"a{character}b"
        folder.mkdir()
        monkeypatch.chdir(folder)
        with pytest.raises(UserError, match="could not be read again"):
            output_dir("runs/a", "--workdir")


def test_other_places_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert output_dir("~/runs/a", "--workdir") == tmp_path / "home" / "runs" / "a"
    for name in ("new/a b", "ä#%20{}'", ".", "..", "a~b", "-a", str(tmp_path), "x:y", "1e-4$"):
        assert output_dir(name, "--workdir") == pathlib.Path(name)
    pathlib.Path("link").symlink_to(".")
    pathlib.Path("file").write_text("")
    assert output_dir(pathlib.Path("link/a"), "--workdir") == pathlib.Path("link/a")
    assert output_file("file", "--output") == pathlib.Path("file")
    with pytest.raises(UserError, match="is a directory: give a file"):
        output_file("link", "--output")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
