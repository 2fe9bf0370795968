"""The range of each sampling setting, for Python, commands, evaluations and Inspect alike."""

from collections.abc import Iterable, Sequence

from msm_jax.errors import UserError
from msm_jax.settings import SAMPLING, Key, Problems, key

KEYS: dict[str, Key] = {
    **{name: part for name, part in SAMPLING.keys.items() if isinstance(part, Key)},
    "samples": key(1, "answers per question", at_least=1, at_most=2**30),
    "first": key(0, "index of the first answer", at_least=0, at_most=2**30),
}


def check_settings(prefix: str = "", **settings: object) -> None:
    """UserError that names the settings, with a prefix such as --, that are out of range."""
    found = Problems(SAMPLING)
    for name, value in settings.items():
        KEYS[name].read(value, f"{prefix}{name}", found)
    found.raise_any()


def stop_texts(stop: str | Iterable[str] | None, name: str = "stop") -> tuple[str, ...]:
    """The texts that end a completion; a single text needs no list, None is none.

    UserError for an empty text, which every completion begins with, or something else than text.
    """
    if stop is None or isinstance(stop, str):
        texts: tuple = () if stop is None else (stop,)
    else:
        texts = tuple(stop) if isinstance(stop, list | tuple | set | frozenset) else (None,)
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{name}={stop!r}: must be a text or a list of texts")
        if not text:
            raise UserError(f'{name}={stop!r}: an empty text ("") would end every completion')
    return texts


def before_stop(text: str, stops: Sequence[str]) -> str | None:
    """The text up to the stop that is complete first; None if it has no stop.

    Of stops that end at the same character the one that begins first counts, so the result does not
    depend on how much text follows.
    """
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)[1]] if found else None
