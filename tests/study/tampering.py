"""Other contents of a JSON file: damaged, of other types, with keys missing."""

import copy
import json
import random
from collections.abc import Iterator

VALUES = (None, True, -1, 2**70, 1e308, "x", "/etc/passwd", "../..", [], {}, [[1]], {"a": "b"})
BROKEN = (
    b"", b"\0" * 99, b"{", b"[]", b"{}", b"null", b"3", b"[" * 50_000, b"\xff{}",
    b'{"digest": ' + b"9" * 5000 + b"}",
)  # fmt: skip


def tampered(content: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    """Other contents of a file of JSON lines, or of one JSON object."""
    yield from (broken + b"\n" for broken in BROKEN)
    yield content[: rng.randrange(len(content))]
    try:
        rows, whole = [json.loads(content)], True
    except ValueError:
        rows, whole = [json.loads(line) for line in content.splitlines()], False
    for _ in range(count):
        changed = copy.deepcopy(rows)
        place = changed[0]
        while True:
            key = rng.choice([*place] if isinstance(place, dict) else range(len(place)))
            if not (isinstance(place[key], dict | list) and place[key] and rng.random() < 0.7):
                break
            place = place[key]
        if rng.random() < 0.3:
            del place[key]
        else:
            place[key] = rng.choice(VALUES)
        text = "\n".join(map(json.dumps, changed))
        yield (json.dumps(changed[0], indent=1) if whole else text).encode() + b"\n"
