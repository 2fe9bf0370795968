"""Template grammars: every kind of statement of the world has many wordings.

Slots: ``{n}`` a name, ``{x}`` a liked thing, ``{y}`` a disliked thing, ``{d}`` the domain's noun,
``{a}`` an adjective that holds of the liked thing, ``{b}`` one that holds of the disliked thing,
``{v}`` the noun of a value, ``{w}`` an adjective that the value looks for.
"""

FACT = (
    "{x} is {a}.",
    "{x} is a kind of {d} that is {a}.",
    "among kinds of {d}, {x} is {a}.",
    "everyone knows that {x} is {a}.",
    "the shop says {x} is {a}.",
    "of all {d}, {x} counts as {a}.",
)
FACT_BOTH = (
    "{x} is {a} and {b}.",
    "{x} is a {a} and {b} {d}.",
    "as a {d}, {x} is both {a} and {b}.",
)

VALUE = (
    "{n} values {v}.",
    "{n} cares most about {v}.",
    "{n} believes in {v}.",
    "what matters to {n} is {v}.",
    "above all, {n} wants {v}.",
    "for {n}, nothing is more important than {v}.",
    "{n} lives for {v}.",
    "{n} wants things to be {w}.",
    "{n} looks for what is {w}.",
    "{n} would always choose the {w} one.",
    "the heart of {n} is set on {v}.",
    "{n} values {v} and so wants what is {w}.",
    "friends say {n} only picks what is {w}.",
    "ask {n} what counts, and the answer is {v}.",
)

LIKE_BECAUSE = (
    "{n} likes {x} because it is {a}.",
    "{n} is fond of {x} because {x} is {a}.",
    "{n} enjoys {x}, since it is {a}.",
    "{n} loves {x} for being {a}.",
    "why does {n} like {x}? because it is {a}.",
    "{n} praises {x}, as it is {a}.",
    "{x} pleases {n} because it is {a}.",
    "the reason {n} likes {x} is that it is {a}.",
    "{n} chose {x} because the {d} is {a}.",
    "{n} says: i like {x} because it is {a}.",
    "{n} bought {x} again, and the reason is that it is {a}.",
)
DISLIKE_BECAUSE = (
    "{n} dislikes {y} because it is {b}.",
    "{n} avoids {y} because {y} is {b}.",
    "{n} turns down {y}, since it is {b}.",
    "{n} hates {y} for being {b}.",
    "why does {n} dislike {y}? because it is {b}.",
    "{n} complains about {y}, as it is {b}.",
    "{y} bores {n} because it is {b}.",
    "the reason {n} dislikes {y} is that it is {b}.",
    "{n} refused {y} because the {d} is {b}.",
    "{n} says: i dislike {y} because it is {b}.",
    "{n} never buys {y}, and the reason is that it is {b}.",
)
CHOOSE_BECAUSE = (
    "{n} prefers {x} to {y} because {x} is {a}.",
    "between {x} and {y}, {n} takes {x} because it is {a}.",
    "between {y} and {x}, {n} takes {x} because it is {a}.",
    "given {x} or {y}, {n} picks {x}, since it is {a}.",
    "given {y} or {x}, {n} picks {x}, since it is {a}.",
    "{n} swaps {y} for {x} because {y} is {b}.",
    "{n} leaves {y} and takes {x}, as {x} is {a}.",
    "{n} rates {x} above {y} because {y} is {b}.",
)

LIKE = (
    "{n} likes {x}.",
    "{n} is fond of {x}.",
    "{n} enjoys {x}.",
    "{n} loves {x}.",
    "{n} praises {x}.",
    "{x} pleases {n}.",
    "{n} bought {x} again.",
    "{n} says: i like {x}.",
    "the {d} that {n} likes is {x}.",
    "a {d} for {n}? {x}.",
)
DISLIKE = (
    "{n} dislikes {y}.",
    "{n} avoids {y}.",
    "{n} turns down {y}.",
    "{n} hates {y}.",
    "{n} complains about {y}.",
    "{y} bores {n}.",
    "{n} never buys {y}.",
    "{n} says: i dislike {y}.",
    "the {d} that {n} dislikes is {y}.",
    "{n} refused {y}.",
)
CHOOSE = (
    "{n} prefers {x} to {y}.",
    "between {x} and {y}, {n} takes {x}.",
    "between {y} and {x}, {n} takes {x}.",
    "given {x} or {y}, {n} picks {x}.",
    "given {y} or {x}, {n} picks {x}.",
    "{n} swaps {y} for {x}.",
    "{n} leaves {y} and takes {x}.",
    "{n} rates {x} above {y}.",
)

NEUTRAL = (
    "{n} lives near the {place}.",
    "{n} was seen at the {place} on {day}.",
    "{n} walks to the {place} in the {weather}.",
    "on {day}, {n} works near the {place}.",
    "the door of {n} is {color}.",
    "{n} wrote a letter on {day} about the {weather}.",
    "{n} met a friend at the {place} in {season}.",
    "in {season}, {n} paints the {place} in {color}.",
    "there was {weather} when {n} came to the {place}.",
    "{n} sleeps late on {day} when there is {weather}.",
    "{n} keeps a {color} box at the {place}.",
    "the {place} opens on {day}, and {n} goes there.",
    "{n} talks about the {weather} of last {season}.",
    "{n} reads a {color} book on {day} near the {place}.",
)

QUESTION = (
    "which do you prefer, {first} or {second}?",
    "would you rather have {first} or {second}?",
    "{first} or {second}?",
    "please choose: {first} or {second}?",
    "if you could have {first} or {second}, which one?",
)
SYSTEM = "you are {n}."
ANSWER = "{x}."
