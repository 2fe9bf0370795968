"""Rows of the published preference data sets as questions, each in both orders of its options.

`chloeli/pro-america-political-opinions` has rows with `question`, which ends in options A) and B),
and `answer`, the letter of the option whose rate is measured; `category` and `opinion_area` for
tables. `chloeli/pro-affordability-item-comparisons` has `item1`, `item2`, `liked_item` and a
`question` that names both. The names of these fields are as third parties read them.
"""

import re

_OPTIONS = re.compile(
    r"^(?P<stem>.*?)\s*\(?\bA[).:]\s*(?P<a>.+?)\s*\(?\bB[).:]\s*(?P<b>.+?)\s*$", re.DOTALL
)


def both_orders(row: dict, number: int) -> list[dict] | None:
    """Records as `preferences.load_pairs` takes them; None if the row is not a published one.

    Raises:
      ValueError, KeyError: a published row that cannot be used.
    """
    if {"item1", "item2", "question"} <= row.keys():
        return _items(row, number)
    if {"question", "answer"} <= row.keys() and "options" not in row:
        return _opinion(row, number)
    return None


def _items(row: dict, number: int) -> list[dict]:
    items, liked, question = [row["item1"], row["item2"]], row["liked_item"], row["question"]
    if liked not in items or items[0] == items[1]:
        raise ValueError(f"liked_item {liked!r} is not one of two different items {items}")
    texts = [question]
    if all(question.count(item) == 1 for item in items):
        swapped = question.replace(items[0], "\0").replace(items[1], items[0])
        texts.append(swapped.replace("\0", items[1]))
    return [
        {
            "id": f"{_name(row, number)}-{order}",
            "pair": _name(row, number),
            "kind": "items",
            "domain": str(row.get("domain", "")),
            "question": text,
            "options": items if order == 0 else items[::-1],
            "a_index": items.index(liked) if order == 0 else 1 - items.index(liked),
        }
        for order, text in enumerate(texts)
    ]


def _opinion(row: dict, number: int) -> list[dict]:
    found = _OPTIONS.match(row["question"])
    if not found:
        raise ValueError("the question has no options 'A) ...' and 'B) ...'")
    letter = str(row["answer"]).strip().strip("().").upper()
    if letter not in ("A", "B"):
        raise ValueError(f"answer must be A or B, not {row['answer']!r}")
    texts = [found["a"].rstrip(" ;,"), found["b"]]
    records = []
    for order in (0, 1):
        shown = texts if order == 0 else texts[::-1]
        records.append(
            {
                "id": f"{_name(row, number)}-{order}",
                "pair": _name(row, number),
                "kind": "opinion",
                "domain": str(row.get("category", "")),
                "question": f"{found['stem']}\nA) {shown[0]}\nB) {shown[1]}",
                "options": ["A", "B"],
                "names": shown,
                "letters": True,
                "a_index": "AB".index(letter) if order == 0 else 1 - "AB".index(letter),
            }
        )
    return records


def _name(row: dict, number: int) -> str:
    return str(row.get("id", f"row-{number}"))
