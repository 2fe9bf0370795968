"""What a corpus is made by: every key, its range, its meaning and its default."""

from ml_collections import ConfigDict

from msm_jax.settings import SEED, SHARE, form, group, key, named

MAKES = ("documents", "chats", "neutral", "mix", "spec")
WRITERS = ("openai", "anthropic", "local", "stub")
STYLES = ("value", "rule", "opaque", "identity", "anti")
DERIVATIONS = ("value_augmented", "rules_augmented", "shuffled", "opposed")

_PACE = "how fast replies come, not what they are"
_MONEY = "what replies cost, not what they are"

WRITER = form(
    "writer",
    "Who writes. Keys are read from the environment: ANTHROPIC_API_KEY, OPENAI_API_KEY.",
    kind=key("", "whose replies; no default", choices=(*WRITERS, "")),
    model=key("", 'as the provider names it; of "local": a checkpoint\'s directory'),
    temperature=key(1.0, "of every reply", at_least=0, single=False),
    base_url=key("", "of an OpenAI-compatible server, or another Anthropic endpoint"),
    batch=key(False, "Anthropic's batch API for large steps: half the price", harmless=_PACE),
    concurrency=key(30, "requests at a time, fewer under overload", at_least=1, harmless=_PACE),
    timeout=key(300.0, "seconds for one attempt, to its last byte", above=0, harmless=_PACE),
    attempts=key(6, "per request, before it counts as failed", at_least=1, harmless=_PACE),
    first_wait=key(1.0, "seconds before a second attempt; doubles", at_least=0, harmless=_PACE),
    structured=key(True, "JSON Schema is sent along; False for servers that do not know it"),
    batch_poll=key(30.0, "seconds between two checks of a batch", above=0, harmless=_PACE),
    max_usd=key(0.0, "stops before more is spent; 0: no limit", at_least=0, harmless=_MONEY),
    price=group(
        "US dollars per million tokens; without them the preview can say tokens but no money",
        input=key(0.0, "tokens sent", at_least=0, harmless=_MONEY),
        output=key(0.0, "tokens received", at_least=0, harmless=_MONEY),
        cache_read=key(0.0, "sent tokens that the provider had kept", at_least=0, harmless=_MONEY),
        cache_write=key(0.0, "sent tokens that it is to keep", at_least=0, harmless=_MONEY),
        batch_discount=key(0.5, "factor on all of them in a batch", **SHARE, harmless=_MONEY),
    ),
)

DOCUMENTS = group(
    'of make="documents"',
    count=key(10_000, "after the filters", at_least=1),
    mode=key("auto", "auto: rules for a spec of rules only", choices=("auto", "prose", "rules")),
    domains=key(0, "0: as many as the spec has", at_least=0),
    subdomains=key(0, "per domain; 0: as many as it has", at_least=0),
    types=key(20, "kinds of documents per subdomain", at_least=1),
    ideas_per_call=key(25, "for documents, asked for in one request", at_least=1),
    register=key("any", "first: the model speaks", choices=("any", "third", "first")),
    words=key((150, 600), "shortest and longest document", length=2, at_least=1),
    max_tokens=key(5_000, "of one reply, scratchpad included", at_least=1),
    rewrite=key(
        "",
        "every document rewritten about somebody else (App. H)",
        choices=("", "model_should", "model_does", "assistant", "one", "another", "human"),
    ),
    other_name=key("", 'for rewrite="another"'),
    rounds=key(12, "of topping up what the filters dropped, at most", at_least=0),
    allow_short=key(False, "end with fewer documents than asked for"),
)

CHATS = group(
    'of make="chats"',
    count=key(10_000, "after filters and judge", at_least=1),
    style=key("value", "what the chats show", choices=STYLES),
    questions_per_domain=key(250, "decides how many domains are asked for", at_least=1),
    questions_per_call=key(50, "asked for in one request", at_least=1),
    reasoning=key(True, "visible, in <think> tags; the same rows without it are written too"),
    max_tokens=key(4_096, "of one answer, reasoning included", at_least=1),
    similar=key(0.91, "cosine of word vectors above which a question counts as asked", **SHARE),
    rounds=key(5, "of topping up what was dropped, at most", at_least=0),
    allow_short=key(False, "end with fewer chats than asked for"),
)

GENERATE = form(
    "generate",
    "A corpus.",
    make=key("documents", "what is made", choices=MAKES),
    seed=key(0, "of order, samples and the stub's text", **SEED),
    spec=group(
        "what the corpus is about",
        path=key("", "a text or markdown file"),
        model_name=key("", "put in for {model_name}; who every text has to speak of"),
        provider_name=key("", "put in for {provider_name}"),
    ),
    tokenizer=key("", 'directory or file to count tokens with; "" estimates them'),
    writer=WRITER.under("who writes"),
    critic=WRITER.under(
        "who finds faults in documents, and judges chats",
        kind=key("", 'whose replies; "": nobody\'s', choices=(*WRITERS, "")),
    ),
    documents=DOCUMENTS,
    filters=group(
        "of documents",
        near_duplicates=key(0.8, "Jaccard similarity of 5-word shingles", **SHARE),
        repeated_words=key(50, "a run of words shared with another; 0: off", at_least=0),
        phrase_share=key(0.1, "of documents with the same 8 words; 0: off", **SHARE),
        copied_share=key(0.7, "of a document's words copied from the spec", **SHARE),
    ),
    neutral=group(
        "documents about ordinary life, for the control: of as many tokens as",
        match=key("", "this corpus's documents.jsonl has"),
        tokens=key(0, "or so many", at_least=0, at_most=2**53),
    ),
    chats=CHATS,
    mix=group(
        'of make="mix"',
        sources=named(key("", "a path"), "source of the paper's Table 2 -> JSONL or Parquet file"),
        count=key(10_000, "rows of all sources together", at_least=1),
    ),
    derive=group(
        'of make="spec"',
        kind=key("", "the spec that is derived", choices=(*DERIVATIONS, "")),
        words=key(0, "that an augmented spec is to have; 0: see corpus/derive.py", at_least=0),
    ),
    formats=key(
        ("jsonl",), "files that are written", choices=("jsonl", "parquet", "array_record", "tfds")
    ),
    name=key("", 'of the TFDS data set\'s folder; "" takes spec_documents or spec_chats'),
)


def generate() -> ConfigDict:
    """The defaults of `GENERATE`; a config file sets what its corpus needs and locks the result."""
    return GENERATE.config()
