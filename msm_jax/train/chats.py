"""Which chat format a model was trained on, and that the next stage uses the same."""

from ml_collections import ConfigDict

from msm_jax.data.chat import ChatFormat
from msm_jax.data.pipeline import Data
from msm_jax.data.template import difference, find_format, own_format
from msm_jax.data.tokenizer import Tokenizer, load_tokenizer
from msm_jax.errors import UserError
from msm_jax.weights import checkpoints

CHATS = "taught"  # words: ok; the key in the facts of a run


def chat_format_of(
    config: ConfigDict, tokenizer: Tokenizer, data: Data
) -> tuple[dict | None, list[str]]:
    """The format of the chats that the stage's model will have been trained on, and warnings.

    It is {"name", "writes": fingerprint}, or None if neither this run nor one before it trained on
    chats. UserError if the parent was trained on another format, or has another tokenizer.
    """
    before = None
    if config.parent and checkpoints.directory(config.parent).is_dir():
        parent = checkpoints.read_facts(config.parent)
        before = parent.get(CHATS)
        theirs, ours = parent["tokenizer"], tokenizer.fingerprint
        if theirs != ours:
            raise UserError(
                f"tokenizer={config.tokenizer}: not the tokenizer of parent={config.parent} "
                f"(sha256 {ours[:12]}, the parent's {theirs[:12]}), so its ids mean other words: "
                'tokenizer="" takes the parent\'s'
            )
    if not any(account.get("chats") for account in data.accounts.values()):
        return before, []
    format = find_format(config.chat_format, tokenizer.directory or ".", tokenizer)
    now = {"name": config.chat_format, "writes": format.fingerprint}
    if before and before["writes"] != now["writes"]:
        text = (
            f"chat_format={config.chat_format!r} writes chats in another way than "
            f"{before['name']!r}, which parent={config.parent} was trained on"
            + _where(_parents_format(config.parent, before["name"]), format)
        )
        if not config.allow_new_chat_format:
            raise UserError(
                f"{text}: use the parent's, or set allow_new_chat_format=True to change it"
            )
        return now, [text]
    own = _parents_format(config.parent, "own") if config.parent and not before else None
    if own and own.fingerprint != format.fingerprint:
        return now, [
            f"chat_format={config.chat_format!r} is not the template of parent={config.parent}"
            f"{_where(own, format)}; chat_format='own' is that template"
        ]
    return now, []


def _parents_format(parent: str, name: str) -> ChatFormat | None:
    """None if the parent no longer has it, or it cannot be used."""
    try:
        tokenizer = load_tokenizer(parent)
        place = tokenizer.directory or parent
        find = own_format if name == "own" else lambda *given: find_format(name, *given)
        return find(place, tokenizer)
    except UserError:
        return None


def _where(theirs: ChatFormat | None, ours: ChatFormat) -> str:
    words = theirs and difference(theirs, ours)
    return f", first for {words}" if words else ""
