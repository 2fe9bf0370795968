"""Rows of the published preference data sets as questions, each in both orders of its options.

`chloeli/pro-america-political-opinions` has rows with `question`, which ends in options A) and B),
and `answer`, the letter of the option whose rate is measured; `category` and `opinion_area` for
tables. `chloeli/pro-affordability-item-comparisons` has `item1`, `item2`, `liked_item` and a
`question` that names both. The names of these fields are as third parties read them.
"""

import re

from msm_jax.schema import mismatch

_OPTIONS = re.compile(
    r"^(?P<stem>.*?)\s*\(?\bA[).:]\s*(?P<a>.+?)\s*\(?\bB[).:]\s*(?P<b>.+?)\s*$", re.DOTALL
)


def both_orders(row: dict, number: int) -> list[dict] | None:
    """Records as `preferences.load_pairs` takes them; None if the row is not a published one.

    Raises:
      ValueError, KeyError: a published row that cannot be used.
    """
    if {"item1", "item2", "question"} <= row.keys():
        orders = _items(row)
    elif {"question", "answer"} <= row.keys() and "options" not in row:
        orders = _opinion(row)
    else:
        return None
    name = str(row.get("id", f"row-{number}"))
    return [{"id": f"{name}-{i}", "pair": name, **order} for i, order in enumerate(orders)]


def _items(row: dict) -> list[dict]:
    items, liked, question = [row["item1"], row["item2"]], row["liked_item"], row["question"]
    if problem := mismatch(row, {"item1": str, "item2": str, "question": str}):
        raise ValueError(problem)
    if liked not in items or items[0] == items[1]:
        raise ValueError(f"liked_item {liked!r} is not one of two different items {items}")
    shared, at = {"kind": "items", "domain": str(row.get("domain", ""))}, items.index(liked)
    orders = [{**shared, "question": question, "options": items, "a_index": at}]
    if all(question.count(item) == 1 for item in items):
        swapped = question.replace(items[0], "\0").replace(items[1], items[0])
        swapped = swapped.replace("\0", items[1])
        orders.append({**shared, "question": swapped, "options": items[::-1], "a_index": 1 - at})
    return orders


def _opinion(row: dict) -> list[dict]:
    if problem := mismatch(row, {"question": str}):
        raise ValueError(problem)
    found = _OPTIONS.match(row["question"])
    if not found:
        raise ValueError("the question has no options 'A) ...' and 'B) ...'")
    letter = str(row["answer"]).strip().strip("().").upper()
    if letter not in ("A", "B"):
        raise ValueError(f"answer must be A or B, not {row['answer']!r}")
    texts, at = [found["a"].rstrip(" ;,"), found["b"]], "AB".index(letter)
    shared = {"kind": "opinion", "domain": str(row.get("category", "")), "letters": True}
    asked = lambda shown: f"{found['stem']}\nA) {shown[0]}\nB) {shown[1]}"
    return [
        {**shared, "question": asked(names), "options": ["A", "B"], "names": names, "a_index": at}
        for names, at in ((texts, at), (texts[::-1], 1 - at))
    ]
