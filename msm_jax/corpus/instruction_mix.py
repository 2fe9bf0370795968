"""A user's instruction data in given proportions, without rows that speak as another assistant.

The paper's Table 2 (appendix B.3) mixes nine sources into 10,000 rows. The user provides them:
JSONL or Parquet files of chats in the shapes that `rows` reads; a prompt and a completion (or
response) that are texts are a chat as well. Tools and all content of messages are kept.
"""

import heapq
import pathlib
import random
from collections.abc import Mapping
from typing import Any

from msm_jax.corpus.filters import claims_no_view, claims_other_identity
from msm_jax.corpus.records import read_parquet, read_rows
from msm_jax.corpus.rows import read_row
from msm_jax.errors import UserError, located

# Rows of each source in 10,000; Li et al. 2026, Table 2.
TABLE_2 = {
    "no_robots": 2779, "tulu3_if": 1471, "numina_math_cot": 1063, "self_oss_instruct": 1064,
    "smol_constraints": 1055, "apigen_function_calling": 1054, "smol_summarize": 984, "lima": 314,
    "longalign": 216,
}  # fmt: skip


def read_chats(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """Rows as {"messages", ...}; rows without an assistant are an error with their number."""
    path = pathlib.Path(path)
    rows = read_parquet(path) if path.suffix == ".parquet" else read_rows(path)
    return [_chat(row, f"{path}:{number}") for number, row in rows]


def instruction_mix(
    sources: Mapping[str, str], count: int, seed: int, own_names: str = "",
    shares: Mapping[str, float] = TABLE_2,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:  # fmt: skip
    """`count` rows in the proportions of `shares`, shuffled, and how many were taken of each.

    Args:
      sources: name -> file; the names are among those of `shares`.
      count: rows altogether; a smaller count takes a subset of a larger one's rows.
      own_names: names that the assistant may call itself by.

    Raises:
      UserError: a source that has no share, or too few rows.
    """
    unknown = sorted(set(sources) - set(shares))
    if unknown or not sources:
        raise UserError(f"mix: no shares for {unknown or 'no sources'}; known: {sorted(shares)}")
    wanted_of = _counts({name: shares[name] for name in sources}, count)
    mixed: list[dict[str, Any]] = []
    facts = {}
    for name, path in sorted(sources.items()):
        rows = read_chats(path)
        good = [row for row in rows if not _unfit(row, own_names)]
        wanted = wanted_of[name]
        if len(good) < wanted:
            raise UserError(
                f"mix: {name} ({path}) has {len(good)} rows that can be used "
                f"({len(rows) - len(good)} speak as another assistant or claim to have no view), "
                f"{wanted} are wanted: give more rows or a smaller count"
            )
        random.Random(f"{seed} {name}").shuffle(good)
        mixed += [{**row, "source": name} for row in good[:wanted]]
        facts[name] = {"rows": len(rows), "unfit": len(rows) - len(good), "taken": wanted}
    random.Random(f"{seed} mix").shuffle(mixed)
    return mixed, facts


def _counts(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """`count` in proportion to the shares, by the rule of Sainte-Laguë (1910): the next row always
    goes to the largest share / (2 rows + 1). So the counts sum up, and none shrinks if `count`
    grows."""
    found = dict.fromkeys(shares, 0)
    heap = [(-share, name) for name, share in sorted(shares.items())]
    heapq.heapify(heap)
    for _ in range(count):
        name = heap[0][1]
        found[name] += 1
        heapq.heapreplace(heap, (-shares[name] / (2 * found[name] + 1), name))
    return found


def _unfit(row: Mapping[str, Any], own_names: str) -> bool:
    said = [m["content"] for m in row["messages"] if m.get("role") == "assistant"]
    return any(claims_other_identity(text, own_names) or claims_no_view(text) for text in said)


def _chat(row: dict[str, Any], where: str) -> dict[str, Any]:
    if "completion" not in row and isinstance(row.get("prompt"), str):
        row = {**row, "completion": row.get("response")}
    with located(where):
        example = read_row(row)
    if example.given:
        raise UserError(f"{where}: 'prompt' and 'completion' are messages: give 'messages'")
    messages = list(example.messages)
    if example.prompt:
        turns = (("user", example.prompt), ("assistant", example.text))
        messages = [{"role": role, "content": text} for role, text in turns]
    if not messages:
        raise UserError(f"{where}: is a text, not a chat")
    if all(message.get("role") != "assistant" for message in messages):
        raise UserError(f"{where}: this chat has no assistant")
    with located(where):
        kept = [_with_plain_lines(message) for message in messages]
    named = {"id": str(row["id"])} if "id" in row else {}
    return {"messages": kept, **({"tools": example.tools} if example.tools else {}), **named}


def _with_plain_lines(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if content is None and "tool_calls" in message:
        content = ""
    if not isinstance(content, str):
        raise UserError(f"a message's content is {content!r:.50}, not a text")
    return {**message, "content": content.replace("\r\n", "\n")}
