"""Breaks files at random: types swapped, keys dropped, huge numbers, nesting, encodings, damage.

`broken(kind, content, rng)` gives the bytes of a broken file; the same generator, the same bytes.
"""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

RAW = [
    "null", "true", "false", "0", "-1", "1", "1.5", "2147483648", "9223372036854775808",
    "-9223372036854775809", "1" + "0" * 400, "9" * 5000, "1e999", "-1e999", "NaN", "1e-320",
    "1e308", '""', '"x"', '" "', '"0"', r'"\ud800"', r'"\u0000"', r'"\u001b[31m\u202e"',
    '"' + "a" * 100_000 + '"', '"../../x"', '"/etc/passwd"', '"/dev/zero"', '"(a+)+$"', '"("',
    '"<|im_end|>"', "[]", "{}", "[[]]", "[null]", '{"a": {"b": [1]}}', '["x", "x"]', "[1, 2, 3]",
    '{"Regex": "(a*)*b"}', '{"String": ""}', '{"content": 5}', '{"content": ""}',
    "[" * 60 + "]" * 60, "[" * 2000 + "]" * 2000, '{"a":' * 300 + "1" + "}" * 300, "[" * 100_000,
]  # fmt: skip
WHOLE = [
    b"", b"null", b"[]", b"{}", b"0", b'"x"', b"[" * 200_000, b'{"a":' * 100_000, b"\0" * 64,
    b" " * 1_000_000, b"\xff\xfe\x00\x00", b"\n" * 1000, b"1" * 10_000, b'"' + b"a" * 2_000_000,
]  # fmt: skip
PIECES = [
    b"-", b"9" * 25, b'"', b"\0", b"1e9", b"../", b"\xff", b"\xed\xa0\x80", b"{", b"[", b"]", b"}",
    b",", b":", b"\\", b"\\u", b"\r", b"\n", b"\xe2\x80\xa8", b"NaN", b"null", b"\x1b[2J",
]  # fmt: skip
JINJA = [
    "{% for m in messages %}", "{% endfor %}", "{% if messages %}", "{% endif %}", "{{ messages }}",
    "{% for i in range(10**9) %}x{% endfor %}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 'a' * 10**10 }}", "{{ '%9999999999d' % 1 }}", "{{ messages[9].content }}", "{{ 1 / 0 }}",
    "{{ messages[0]['role'].__class__ }}", "{{ messages | tojson(indent=9) }}", "{{ none.x }}",
    "{% set x = x + x %}", "{% set ns = namespace(a=[1]) %}", "{{ raise_exception('no') }}", "{#",
    "{% generation %}", "{% endgeneration %}", "{{ undefined_thing() }}", "{{ [[1] * 9] * 9 }}",
    "{{ eos_token }}", "{{ bos_token + 5 }}", "{{ messages | groupby('role') }}",
    "{% include 'x' %}",
    "{{ strftime_now('%9999d') }}", "{{ 'x'.format(**messages[0]) }}", "((((((((((",
    "{{ '\\ud800' }}",
    "{% break %}", "{{ messages[0].content | upper | reverse | list | join }}", "{% raw %}",
    "{{ '" + "(" * 400 + "' }}", "{{ " + "(" * 300 + "1" + ")" * 300 + " }}", "\n" * 50,
]  # fmt: skip
MARKDOWN = [
    "# ", "## values\n", "## likes (x)\n", "1. ", "- ", "```\n", "{model_name} likes ", " because ",
    "(because ", ")", "Value: ", "{{", "}}", " " * 400, " " * 600, "#" * 50, "\n" * 30, ".!?",
    "a" * 20_000, "- a (because " * 200, "1.1.1.1.1) ", "**", "{provider_name}", "\u2028",
]  # fmt: skip


class Raw(str):
    """Text that stands in JSON as it is."""


def broken(kind: str, content: bytes, rng: random.Random) -> bytes:
    """The content of a file of this kind with something wrong, most of the time."""
    if rng.random() < 0.03:
        return rng.choice(WHOLE)
    content = BREAKERS[kind](content, rng)
    if rng.random() < 0.15:
        content = damaged(content, len(content), rng)
    if rng.random() < 0.04 and kind not in ("bytes", "tensors", "gguf"):
        content = encoded(content, rng)
    return content


def damaged(content: bytes, upto: int, rng: random.Random) -> bytes:
    """Bits flipped, bytes lost, doubled or put in, or the end lost."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if not found:
            return b""
        at, kind = rng.randrange(max(1, min(upto, len(found)))), rng.randrange(6)
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del found[at : at + rng.randint(1, 40)]
        elif kind == 2:
            found[at:at] = found[at : at + rng.randint(1, 40)]
        elif kind == 3:
            found[at:at] = rng.choice(PIECES)
        elif kind == 4:
            found[at] = rng.randrange(256)
        elif rng.random() < 0.5:
            del found[at:]
    return bytes(found)


def encoded(content: bytes, rng: random.Random) -> bytes:
    """In another encoding, or with a mark of the byte order."""
    text = content.decode("utf-8", "replace")
    how = rng.choice(["utf-16", "utf-32", "latin-1", "utf-8-sig", "utf-7"])
    return text.encode(how, "replace")


# ------------------------------------------------------------------ JSON


def broken_json(content: bytes, rng: random.Random) -> bytes:
    """One to three parts of the value changed."""
    return dumped(changed(json.loads(content), rng)).encode("utf-8", "surrogatepass")


def changed(value: Any, rng: random.Random) -> Any:
    """The value with one to three of its parts changed."""
    box = [value]
    for _ in range(rng.randint(1, 3)):
        change_one(box, rng)
    return box[0]


def change_one(box: list, rng: random.Random) -> None:
    """Go down from the box to a random part, and change it."""
    holder: Any = box
    key: Any = 0
    while isinstance(inner := holder[key], dict | list) and inner and rng.random() < 0.75:
        holder = inner
        key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
    value, how = holder[key], rng.randrange(9)
    if how <= 2:
        holder[key] = Raw(rng.choice(RAW))
    elif how == 3 and holder is not box:
        del holder[key]
    elif how == 4 and isinstance(holder, dict):
        name = rng.choice([*holder, "", "x", key.upper(), key + "s", "\x1b[31m", "\ud800"])
        holder[name] = holder.pop(key)
    elif how == 5:
        other = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        holder[key], holder[other] = holder[other], holder[key]
    elif how == 6:
        holder[key] = rng.choice([[value], {"a": value}, [value, value], {"content": value}])
    elif how == 7 and isinstance(value, int | float) and abs(value) < 2**63:
        holder[key] = rng.choice([-value, value + 1, value * 10**6, float(value), str(value), 0])
    elif isinstance(value, str) and not isinstance(value, Raw):
        holder[key] = rng.choice([value * 2, value[: len(value) // 2], value.upper(), [value], 7])
    elif isinstance(value, dict) and value:
        name = rng.choice(list(value))
        holder[key] = Raw(dumped(value)[:-1] + f", {json.dumps(name)}: 1}}")
    else:
        holder[key] = Raw(rng.choice(RAW))


def dumped(value: Any) -> str:
    """JSON in which `Raw` stands as it is."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {dumped(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dumped, value)) + "]"
    return json.dumps(value)


def broken_lines(content: bytes, rng: random.Random) -> bytes:
    """Some rows of a JSONL file changed, doubled, lost or swapped."""
    lines = content.splitlines()
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(lines))
        how = rng.randrange(8)
        if how == 0:
            lines.insert(at, lines[at])
        elif how == 1:
            lines[at] = rng.choice(WHOLE)
        elif how == 2:
            lines[at] = lines[at] + rng.choice([b"", b" ", b"\r", lines[-1]])
        else:
            try:
                lines[at] = broken_json(lines[at], rng)
            except (ValueError, RecursionError):
                lines[at] = damaged(lines[at], len(lines[at]), rng)
    return b"\n".join(lines) + rng.choice([b"\n", b"\n", b"\n", b"", b"\n\n{"])


# ------------------------------------------------------------------ other kinds


def broken_text(pieces: list[str]) -> Callable[[bytes, random.Random], bytes]:
    """Lines lost, doubled or swapped, and pieces put in."""

    def breaker(content: bytes, rng: random.Random) -> bytes:
        text = content.decode()
        for _ in range(rng.randint(1, 3)):
            at, stop = sorted(rng.randrange(len(text) + 1) for _ in range(2))
            if rng.random() < 0.6:  # where a line begins
                at = text.rfind("\n", 0, at) + 1
            how = rng.randrange(4)
            if how <= 1:
                text = text[:at] + rng.choice(pieces) + text[at:]
            elif how == 2:
                text = text[:at] + text[min(stop, at + 60) :]
            else:
                text = text[:at] + text[at:stop] * rng.randint(2, 4) + text[stop:]
        return text.encode("utf-8", "surrogatepass")

    return breaker


def broken_tensors(content: bytes, rng: random.Random) -> bytes:
    """The header of a safetensors file changed, with its length or without; the data cut."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = content[8 : 8 + length], content[8 + length :]
    how = rng.random()
    if how < 0.7:
        header = broken_json(header, rng)
    elif how < 0.85:
        header = damaged(header, len(header), rng)
    else:
        data = data[: rng.randrange(len(data))] if rng.random() < 0.5 else data + b"\0" * 8
    if rng.random() < 0.85:
        length = len(header)
    elif rng.random() < 0.5:
        length = rng.choice([0, 1, 2**31, 2**63, 2**64 - 1, 10**8])
    return struct.pack("<Q", length) + header + data


def broken_gguf(content: bytes, rng: random.Random) -> bytes:
    """The metadata of a GGUF file damaged, or a number in them made huge."""
    upto = min(len(content), 8000)
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(0, upto - 8)
        if rng.random() < 0.5:
            number = rng.choice([0, 1, 9, 255, 2**20, 2**31, 2**40, 2**62, 2**64 - 1])
            content = content[:at] + struct.pack("<Q", number) + content[at + 8 :]
        else:
            content = damaged(content, upto, rng)
        upto = min(upto, max(9, len(content)))
    return content


def broken_bytes(content: bytes, rng: random.Random) -> bytes:
    """Damaged at its beginning, at its end or anywhere."""
    how = rng.randrange(3)
    if how == 0:
        return damaged(content, 64, rng)
    if how == 1:
        kept = max(0, len(content) - 400)
        return content[:kept] + damaged(content[kept:], 400, rng)
    return damaged(content, len(content), rng)


BREAKERS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bytes": broken_bytes,
    "json": broken_json,
    "lines": broken_lines,
    "jinja": broken_text(JINJA),
    "markdown": broken_text(MARKDOWN),
    "tensors": broken_tensors,
    "gguf": broken_gguf,
}
