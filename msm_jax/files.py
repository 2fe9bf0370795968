"""The one place where files are written, locked, deleted and hashed.

A file or directory is written under a temporary name beside its own, synced to the disk and
renamed, so that it appears complete or not at all. Nothing is deleted outside of a directory that
the caller names, and no symbolic link is followed while writing or deleting (see `links`).
"""

import collections
import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
import platform
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from msm_jax import limits, schema
from msm_jax.errors import UserError
from msm_jax.links import real_path, refuse_link

TEMPORARY = ".partial"
MOUNTS = "/proc/self/mounts"


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A temporary path to write to, which replaces `path` when the block ends without an error."""
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}{TEMPORARY}")
    temporary.unlink(missing_ok=True)  # of a process that was killed, or a link to somewhere else
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_directory(path: str | os.PathLike, racing: bool = False) -> Iterator[pathlib.Path]:
    """A temporary directory to fill, which becomes `path` when the block ends without an error.

    Of two processes that write the same directory, the second gets a message at once. What a killed
    process left under the temporary name is emptied and used again.

    Args:
      path: missing, or an empty directory.
      racing: several processes may make the same content at once, and the first one wins.

    Raises:
      UserError: `path` is a file, or a directory that is not empty; another process writes it.
    """
    target = pathlib.Path(path).absolute()
    taken = f"{path}: exists and is not empty: choose another place or remove it"
    if not racing and _occupied(target):
        raise UserError(taken)
    target.parent.mkdir(parents=True, exist_ok=True)
    if racing:
        made = tempfile.mkdtemp(TEMPORARY, f".{target.name}.", target.parent)
        temporary, held = pathlib.Path(made), -1
    else:
        temporary = target.with_name(f".{target.name}{TEMPORARY}")
        held = _claim(temporary, path)
    try:
        if not racing and _occupied(target):  # by a process that has just ended
            raise UserError(taken)
        yield temporary
        try:
            os.replace(temporary, target)  # also over an empty directory
        except OSError:
            if not racing or not _occupied(target):
                raise
            delete(temporary, target.parent)  # another process was first
        _sync(target.parent)
    except BaseException:
        delete(temporary, target.parent)
        raise
    finally:
        if held >= 0:
            os.close(held)


def _occupied(target: pathlib.Path) -> bool:
    return target.exists() and (not target.is_dir() or any(target.iterdir()))


def _claim(temporary: pathlib.Path, path: str | os.PathLike) -> int:
    """Make and lock an empty directory; returns its file descriptor, whose closing unlocks it.

    What a killed process left in the directory is deleted.
    """
    import fcntl  # not on Windows, where the package can still be imported

    while True:
        with contextlib.suppress(FileExistsError):
            temporary.mkdir()
        try:
            held = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # the process that held it has just renamed or deleted it
            continue
        except OSError:
            if temporary.is_dir() and not temporary.is_symlink():
                raise
            delete(temporary, temporary.parent)  # a file, or a link to somewhere else
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(held)
            raise UserError(
                f"{path}: another process is writing it: wait for that one, or choose another place"
            ) from error
        except OSError:  # a file system without locks
            pass
        try:
            if os.path.samestat(os.fstat(held), os.lstat(temporary)):
                for left in temporary.iterdir():
                    delete(left, temporary)
                return held
        except FileNotFoundError:  # renamed or deleted before the lock was ours
            pass
        os.close(held)


def copy(directory: str | os.PathLike, name: str, target: str | os.PathLike) -> None:
    """Copy a file that came with a model, as `real_path` finds it."""
    write_bytes(target, real_path(directory, name).read_bytes())


def rename(path: str | os.PathLike, name: str) -> None:
    """Give a file or directory that was written another name, in the same directory."""
    path = pathlib.Path(path)
    _sync(path)
    os.replace(path, path.with_name(name))
    _sync(path.parent)


def open_own(path: str | os.PathLike, mode: str, **options: Any) -> IO[Any]:
    """As `open`, for a file of ours that is written in place, such as a log.

    Raises:
      UserError: it is a link, a directory, or something else than a file.
    """
    problem = f"{path}: is not a file, and is to be written: move it away"

    def opener(name: str, flags: int) -> int:
        """Without waiting for the reader of a pipe."""
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        opened = os.open(name, flags, 0o666)
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise UserError(problem)
        return opened

    try:
        return open(path, mode, opener=opener, **options)
    except OSError as error:
        if error.errno == errno.ELOOP:
            refuse_link(pathlib.Path(path))
        if error.errno in (errno.EISDIR, errno.ENXIO):
            raise UserError(problem) from error
        raise


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Replace `path` by a file with these bytes."""
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace `path` by a UTF-8 file with this text, line ends as they are."""
    write_bytes(path, text.encode("utf-8"))


def append(path: str | os.PathLike, data: bytes) -> None:
    """Add bytes to the end of a file, from which neither a kill nor a power cut loses them.

    The file is closed each time, because gcsfuse stores what was written to a new file only when it
    is closed; fsync is not enough (github.com/GoogleCloudPlatform/gcsfuse, docs/semantics.md).
    """
    with open_own(path, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | os.PathLike, content: Any, sort_keys: bool = False) -> None:
    """Replace `path` by JSON as of `dumps`; with `sort_keys` equal contents are equal files."""
    write_text(path, _readable(content, indent=1, sort_keys=sort_keys) + "\n")


def write_jsonl(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace `path` by one JSON object per line."""
    write_text(path, "".join(map(jsonl_line, rows)))


def jsonl_line(row: Mapping[str, Any]) -> str:
    """One line of a JSONL file, with its newline.

    Unicode's line separators are escaped, because some readers split lines at them.
    """
    return _readable(row).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "\n"


def _readable(value: Any, **options: Any) -> str:
    """JSON without escapes, unless it has half a surrogate pair, which UTF-8 cannot encode."""
    text = dumps(value, ensure_ascii=False, **options)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return dumps(value, **options)
    return text


def dumps(value: Any, **options: Any) -> str:
    """As `json.dumps`, within the JSON standard: a number that is not finite becomes null."""
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def read_json(
    path: str | os.PathLike, form: Any = object, cure: str = "delete it and run again"
) -> Any:
    """The content of a JSON file of ours; None where there is no such file.

    Args:
      form: what it must hold, see `schema`.
      cure: what to do where it does not.

    Raises:
      UserError: the file is not JSON, or holds something else.
    """
    try:
        found = parse_json(limits.read_bytes(path, limits.JSON_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}): {cure}") from error
    if problem := schema.mismatch(found, form):
        raise UserError(f"{path}: {problem}: {cure}")
    return found


def read_object(path: str | os.PathLike, optional: bool = False) -> dict[str, Any]:
    """The object in a JSON file of the user's; with `optional` {} where there is no such file.

    Raises:
      UserError: it cannot be read, is larger or nested deeper than `limits` allow, is not JSON, or
        holds something else.
    """
    if optional and not os.path.exists(path):
        return {}
    try:
        text = limits.read_bytes(path, limits.JSON_BYTES).decode("utf-8-sig")
        found = parse_json(text, unique=False)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object")
    return found


def parse_json(text: str | bytes, unique: bool = True) -> Any:
    """The value of a JSON text.

    Args:
      unique: refuse an object that has a key twice, instead of taking its last value.

    Raises:
      ValueError: it is not JSON, or nested deeper than `limits.JSON_DEPTH`.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        found = json.loads(text, object_pairs_hook=_unique_keys if unique else None)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {limits.JSON_DEPTH}") from error
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    if text.count("[") + text.count("{") > limits.JSON_DEPTH:
        limits.check_depth(found)
    return found


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        raise ValueError(f"an object has the key {counts.most_common(1)[0][0]!r} twice")
    return found


def read_jsonl(path: str | os.PathLike, limit: int | None = None, form: Any = object) -> list[dict]:
    """The rows of an append-only JSONL file of ours, [] where there is no such file.

    A last line without a newline is left out: its process was killed while writing it.

    Args:
      limit: the most rows to read; None is all.
      form: what each must hold, see `schema`.

    Raises:
      UserError: a line is not a JSON object, or holds something else.
    """
    rows: list[dict] = []
    with contextlib.suppress(FileNotFoundError), limits.open_regular(path) as file:
        # In bytes, because the last one may end within a character.
        for line in iter(lambda: file.readline(limits.LINE_BYTES), b""):
            where = f"{path}:{len(rows) + 1}"
            if len(line) == limits.LINE_BYTES:
                raise UserError(f"{where}: has more bytes than {limits.LINE_BYTES}")
            if len(rows) == limit or not line.endswith(b"\n"):
                break
            row, problem = None, "is not a JSON object"
            with contextlib.suppress(ValueError):
                row = parse_json(line)
            if not isinstance(row, dict) or (problem := schema.mismatch(row, form)):
                raise UserError(f"{where}: {problem}: delete the file")
            rows.append(row)
    return rows


def link(path: str | os.PathLike, target: str | os.PathLike) -> None:
    """Make `path` a symbolic link to `target`; a link that is there is replaced at once.

    Raises:
      UserError: `path` is a directory.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() and os.readlink(path) == os.fspath(target):
        return
    if path.is_dir() and not path.is_symlink():
        raise UserError(f"{path}: is a directory where a link belongs: move it away")
    temporary = path.with_name(f"{path.name}{TEMPORARY}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, path)


@contextlib.contextmanager
def lock(path: str | os.PathLike, busy: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`; the lock ends with its process, however that ends.

    On NFS it keeps out other hosts too. Where it may not, as on a bucket, or where the file system
    has no locks, there is a warning.

    Args:
      path: made if it is missing, with its directory; holds the id of the process and its host.
      busy: what to say when another process holds it, such as "runs/a: another process is training
        here: wait for it, or use another --workdir"; its process id is added.
      wait: wait until other processes let go of it, instead of failing.

    Raises:
      UserError: another process holds it.
    """
    import fcntl  # not on Windows, where the package can still be imported

    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_own(path, "a+", encoding="utf-8") as file:
        holds = f"may hold on this host only ({kind})" if (kind := fuse(path)) else ""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip().removesuffix(f" on {platform.node()}")
            raise UserError(busy + (f" (process {holder})" if holder else "")) from error
        except OSError as error:  # as of Lustre that is mounted without flock
            holds = f"holds nobody out ({error.strerror})"
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}")
        file.flush()
        if holds:
            warnings.warn(
                f"{path}: on this file system a lock {holds}: make sure that no other host or "
                f"process works in {path.parent}",
                stacklevel=3,
            )
        yield


def fuse(path: str | os.PathLike) -> str:
    """The type of the file system of `path`, if it is one of FUSE: such as "fuse.gcsfuse"; else "".

    The kernel keeps the locks of such a file system on each host by itself, unless the file system
    asks for them. That of gcsfuse does not.
    """
    place, mounts = pathlib.Path(path).resolve(), {}
    with contextlib.suppress(OSError), open(MOUNTS, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            _, where, kind, *_ = line.split(" ")
            where = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), where)
            mounts[pathlib.Path(where)] = kind
    found = next((mounts[each] for each in (place, *place.parents) if each in mounts), "")
    return found if re.match(r"fuse$|fuse\.(?!fuse-overlayfs)", found) else ""


def delete(path: str | os.PathLike, inside: str | os.PathLike) -> None:
    """Delete a file or directory tree, if it exists; links are removed and never followed.

    Args:
      path: what to delete.
      inside: the directory that it has to be in; nothing outside of it is ever deleted.

    Raises:
      UserError: `path` is `inside` itself or is not below it.
    """
    path, root = pathlib.Path(path), pathlib.Path(inside).resolve()
    place = path.parent.resolve() / path.name  # the last part may be a link, and is not followed
    if path.name in ("", "..") or root not in place.parents:
        raise UserError(f"{path}: is not inside of {inside}, so it is not deleted")
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def sha256_text(text: str) -> str:
    """SHA-256 of a text in UTF-8, as hex digits; half surrogates count as what they are."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256_json(content: Any) -> str:
    """SHA-256 of plain data, whatever the order of its keys, as hex digits."""
    return sha256_text(json.dumps(content, sort_keys=True))


def seal(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object without its key "seal", which keeps it: so an edit is noticed."""
    return sha256_json(json.loads(dumps({k: v for k, v in content.items() if k != "seal"})))


def sha256_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as hex digits.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with limits.open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}: check the path") from error


def sha256_sources(package: str | os.PathLike) -> str:
    """SHA-256 of the names and contents of all Python files below a directory."""
    root = pathlib.Path(package)
    found = sorted(root.rglob("*.py"))
    return sha256_json([[file.relative_to(root).as_posix(), sha256_file(file)] for file in found])


def _sync(path: pathlib.Path) -> None:
    """Write what is cached to the disk, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems have no sync of directories
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
