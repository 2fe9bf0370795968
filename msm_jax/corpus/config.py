"""What a corpus is made by: every key, its meaning and its default."""

from ml_collections import ConfigDict

MAKES = ("documents", "chats", "neutral", "mix", "spec")
WRITERS = ("template", "anthropic", "openai", "local")
MODES = ("auto", "prose", "rules")
REGISTERS = ("any", "third", "first")
REWRITES = ("", "model_should", "model_does", "assistant", "one", "another", "human")
FORMATS = ("jsonl", "parquet", "array_record", "tfds")
STYLES = ("value", "rule", "opaque", "identity", "anti")


def writer(kind: str = "template") -> ConfigDict:
    """Who writes. Keys are read from the environment: ANTHROPIC_API_KEY, OPENAI_API_KEY."""
    config = ConfigDict()
    config.kind = kind  # of WRITERS; "" for none where a second one is optional
    config.model = ""  # as the provider names it; of "local": a checkpoint's directory
    config.temperature = 1.0  # of every reply
    config.base_url = ""  # of an OpenAI-compatible server, or another Anthropic endpoint
    config.batch = False  # Anthropic's batch API for documents and answers: half the price
    config.concurrency = 30  # most requests at a time; fewer while the provider is overloaded
    config.timeout = 300.0  # seconds for one attempt, from the first byte sent to the last read
    config.attempts = 6  # per request, before it counts as failed
    config.first_wait = 1.0  # seconds before a second attempt; doubles, with jitter
    config.structured = True  # JSON Schema is sent along; False for servers that do not know it
    config.batch_poll = 30.0  # seconds between two looks at a batch
    config.max_usd = 0.0  # stops before more is spent; 0: no limit
    # US dollars per million tokens; without them the preview can say tokens but no money.
    config.price = ConfigDict(
        {
            "input": 0.0,  # tokens sent
            "output": 0.0,  # tokens received
            "cache_read": 0.0,  # sent tokens that the provider had kept
            "cache_write": 0.0,  # sent tokens that it is to keep
            "batch_discount": 0.5,  # factor on all of them in a batch
        }
    )
    return config


def generate() -> ConfigDict:
    """The defaults; a config file sets what its corpus needs and locks the result."""
    config = ConfigDict()
    config.make = "documents"  # of MAKES
    config.seed = 0  # of order, samples and whatever the template writer draws
    # What the corpus is about.
    config.spec = ConfigDict(
        {
            "path": "",  # a text or markdown file
            "model_name": "",  # put in for {model_name}; who every text has to speak of
            "provider_name": "",  # put in for {provider_name}
        }
    )
    config.tokenizer = ""  # directory or file to count tokens with; "" estimates them
    config.writer = writer()
    config.critic = writer("")  # finds faults in documents, judges chats; "": nobody does
    config.documents = ConfigDict(  # of make="documents"
        {
            "count": 10_000,  # that are to be left after the filters
            "mode": "auto",  # "rules" for a spec of numbered rules, "prose" for any other
            "domains": 0,  # 0: as many as the spec has
            "subdomains": 0,  # per domain; 0: as many as it has
            "types": 20,  # kinds of documents per subdomain
            "ideas_per_call": 25,  # for documents, asked for in one request
            "register": "any",  # "third": about the model; "first": the model speaks
            "words": (150, 600),  # shortest and longest document
            "max_tokens": 5_000,  # of one reply, scratchpad included
            "rewrite": "",  # of REWRITES: every document told about somebody else (App. H)
            "other_name": "",  # for rewrite="another"
            "rounds": 12,  # of topping up what the filters dropped, at most
            "allow_short": False,  # end with fewer documents than asked for
        }
    )
    config.filters = ConfigDict(  # of documents
        {
            "near_duplicates": 0.8,  # Jaccard similarity of 5-word shingles
            "repeated_words": 50,  # a run of so many words shared with another document; 0: off
            "phrase_share": 0.1,  # of documents with the same 8 words; 0: off
            "copied_share": 0.7,  # of a document's words copied from the spec
        }
    )
    # Documents about ordinary life, for the control: of as many tokens as
    config.neutral = ConfigDict(
        {
            "match": "",  # this corpus's documents.jsonl has
            "tokens": 0,  # or so many
        }
    )
    config.chats = ConfigDict(  # of make="chats"
        {
            "count": 10_000,  # that are to be left after filters and judge
            "style": "value",  # of STYLES
            "questions_per_domain": 250,  # decides how many domains are asked for
            "questions_per_call": 50,  # asked for in one request
            "reasoning": True,  # visible, in <think> tags; the same rows without it are written too
            "max_tokens": 4_096,  # of one answer, reasoning included
            "similar": 0.91,  # cosine of word vectors above which a question counts as asked
            "rounds": 5,  # of topping up what was dropped, at most
            "allow_short": False,  # end with fewer chats than asked for
        }
    )
    config.mix = ConfigDict(  # of make="mix"
        {
            # A source in the paper's Table 2 by its name -> JSONL or Parquet of the user's own.
            "sources": ConfigDict(),
            "count": 10_000,  # rows of all sources together
        }
    )
    config.derive = ConfigDict(  # of make="spec"
        {
            "kind": "",  # value_augmented, rules_augmented, shuffled or opposed
            "words": 0,  # that an augmented spec is to have; 0: see corpus/derive.py
        }
    )
    config.formats = ("jsonl",)  # of FORMATS
    config.name = ""  # of the TFDS data set's folder; "" takes spec_documents or spec_chats
    return config
