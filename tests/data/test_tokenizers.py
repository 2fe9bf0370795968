"""Texts begin as in `transformers`, added words are words, and a broken file is named."""

import json

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from msm_jax.data.pipeline import load_data
from msm_jax.data.store import TAG, load_store
from msm_jax.data.template import find_template, special_tokens
from msm_jax.data.tokenizer import load_tokenizer
from msm_jax.errors import UserError
from msm_jax.limits import Limit

FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
BEGIN, END, OF_TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
CONTROLS = [BEGIN, END, OF_TURN, "<|start_header_id|>", "<|end_header_id|>"]
LINES = [
    "The cheese is cheap and local.", "", " a", "caf\u00e9 Zorblax, Zorblaxes\n\nspec", "x" * 300,
    "unZorblaxed  Zorblax\tand New York",
]  # fmt: skip


def tokenizer_json(template: str = "", words=(), **changes) -> str:
    """A byte-level BPE with Llama 3's control tokens; `template` is its post-processor's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["The cheese is cheap and local: a spec"] * 3, trainer)
    tokenizer.add_special_tokens(CONTROLS)
    tokenizer.add_tokens(list(words))
    if template:
        names = [name for name in (BEGIN, END, OF_TURN) if name in template]
        ids = [(name, tokenizer.token_to_id(name)) for name in names]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, pair=f"{template} $B:1", special_tokens=ids
        )
    return json.dumps({**json.loads(tokenizer.to_str()), **changes})


def directory(tmp_path, content: str):
    (tmp_path / "tokenizer.json").write_text(content)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)


def document(tmp_path, tokenizer, row, **source):
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    source = {"path": str(tmp_path / "x.jsonl"), "loss_on": "all", **source}
    store, _ = load_store(source, tokenizer, "llama3", str(tmp_path / "c"))
    return store.document(0)[0].tolist(), store.kinds


TEMPLATES = {
    "none": "",
    "Llama 3": f"{BEGIN} $A",
    "both ends": f"{BEGIN} $A {END}",
    "an end only": f"$A {END}",
    "another end": f"{BEGIN} $A {OF_TURN}",
    "two begins": f"{BEGIN} {BEGIN} $A",
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_texts_begin_as_in_transformers(tmp_path, kind):
    ours, theirs = directory(tmp_path, tokenizer_json(TEMPLATES[kind]))
    ends = {ours.control(END), ours.control(OF_TURN)}
    for line in LINES:
        wanted = theirs(line).input_ids
        while wanted and wanted[-1] in ends:
            wanted.pop()
        assert [*ours.start_ids, *ours.encode(line)] == wanted
        if line.strip():
            ids, kinds = document(tmp_path, ours, {"text": line})
            assert ids == [*wanted, ours.control(END)]
            assert (kinds[: len(ours.start_ids)] == TAG).all()


def test_the_begin_comes_before_a_tag_and_once(tmp_path):
    ours, _ = directory(tmp_path, tokenizer_json(f"{BEGIN} $A"))
    begin, tag = ours.control(BEGIN), ours.encode("spec")
    ids, _ = document(tmp_path, ours, {"text": "a local cheese"}, tag="spec")
    assert ids[: 1 + len(tag)] == [begin, *tag] and ids.count(begin) == 1
    ids, _ = document(tmp_path, ours, {"prompt": "a local", "completion": " cheese"})
    assert ids == [begin, *ours.encode("a local cheese"), ours.control(END)]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids, _ = document(tmp_path, ours, {"messages": turns})
    assert ids[0] == begin and ids.count(begin) == 1


WORDS = {
    "a word": AddedToken("Zorblax"),
    "a whole word": AddedToken("Zorblax", single_word=True),
    "with its space": AddedToken("Zorblax", lstrip=True, rstrip=True),
    "not normalized": AddedToken("Zorblax", normalized=False),
    "of two words": AddedToken("New York"),
}


@pytest.mark.parametrize("kind", WORDS)
def test_added_words_are_the_ids_of_transformers(tmp_path, kind):
    ours, theirs = directory(tmp_path, tokenizer_json(words=[WORDS[kind], "spec"]))
    used = set()
    for line in LINES:
        assert ours.encode(line) == theirs(line).input_ids
        ids, starts = ours.encode_with_starts(line)
        assert ids == ours.encode(line) and starts == sorted(starts)
        used |= {*ids}
    word = theirs.convert_tokens_to_ids(WORDS[kind].content)
    assert {word, theirs.convert_tokens_to_ids("spec")} <= used
    assert WORDS[kind].content not in ours.control_names
    turns = [
        {"role": "user", "content": WORDS[kind].content},
        {"role": "assistant", "content": "b"},
    ]
    assert word in document(tmp_path, ours, {"messages": turns})[0]


@pytest.mark.parametrize("name", ["<think>", "</tool_call>", "[INST]", "<|im_end|>", BEGIN])
def test_tags_and_special_tokens_never_come_from_a_text(tmp_path, name):
    ours, _ = directory(tmp_path, tokenizer_json(words=[AddedToken(name), "Zorblax"]))
    assert name in ours.control_names
    text = f"a {name} Zorblax"
    assert ours.control(name) not in ours.encode(text)
    assert ours.encode(text)[-1] not in ours.encode("Zorb")  # the word beside it is still one
    assert ours.decode(ours.encode(text)) == text


def test_names_of_control_tokens_in_documents_are_counted(tmp_path):
    ours, _ = directory(tmp_path, tokenizer_json())
    rows = [{"text": f"a {BEGIN} {BEGIN} b"}, {"text": f"{BEGIN}{END}"}, {"text": "c"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(tmp_path / "x.jsonl"), "weight": 1.0, "loss_on": "all"}
    data = load_data({"x": source}, ours, "llama3", 64, 1, 0, cache=str(tmp_path / "c"))
    assert data.notes == [
        f"data.x: '{BEGIN}' in a text stays text: documents: 2",
        f"data.x: '{END}' in a text stays text: documents: 1",
    ]


def added(**changes):
    def change(settings):
        settings["added_tokens"][1].update(changes)

    return change


BROKEN = {
    "an empty word": (added(content=""), "added token '': a text of 1 to"),
    "a gap": (added(id=700), f"added token '{END}' has id 700, but".replace("|", r"\|")),
    "twice": (added(content=BEGIN), "added token .* is there twice"),
    "no id": (added(id=None), r"added_tokens\[1\].id must be a whole number, not None"),
    "a list as content": (added(content=["a"]), r"added_tokens\[1\].content must be a text"),
    "a text as mark": (added(special="no"), r"\[1\].special must be true or false"),
    "a list for an object": (
        lambda settings: settings.update(added_tokens={"a": 1}), "added_tokens must be a list",
    ),
    "a long token": (
        lambda settings: settings["model"]["vocab"].update({"a" * 2001: 5000}), "TOKEN_CHARACTERS",
    ),
    "an id of millions": (
        lambda settings: (
            settings["model"]["vocab"].update({"zorb": 2**31}), settings.update(added_tokens=[])),
        "ids: .*VOCABULARY",
    ),
    "text that grows": (
        lambda settings: settings.update(normalizer={
            "type": "Sequence", "normalizers": [
                {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaa"}] * 20}),
        "NORMALIZER_GROWTH",
    ),
    "a thousand steps": (
        lambda settings: settings.update(pre_tokenizer={
            "type": "Sequence", "pretokenizers": [{"type": "Whitespace"}] * 1000}),
        "TOKENIZER_PARTS",
    ),
    "a dropout": (lambda settings: settings["model"].update(dropout=0.1), "dropout"),
    "an unknown key": (lambda settings: settings.update(zorb=1), "its keys zorb are not known"),
    "no model": (lambda settings: settings.pop("model"), "not a tokenizer.json"),
}  # fmt: skip
BROKEN_BESIDE = {
    "an end of no text": ("tokenizer_config.json", {"eos_token": {"id": 3}}, "eos_token.content"),
    "a list of ends": ("special_tokens_map.json", {"eos_token": [END]}, "eos_token must be a text"),
    "a number of more": (
        "tokenizer_config.json", {"additional_special_tokens": 5}, "must be a list or an object",
    ),
    "an id that is none": (
        "tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "the id 'x'",
    ),
    "an added word that is none": (
        "tokenizer_config.json", {"added_tokens_decoder": {"3": END}}, "3 must be an object",
    ),
    "a template that is none": (
        "tokenizer_config.json", {"chat_template": [{"template": "x"}]}, r"\[0\].name is missing",
    ),
    "an id of text": ("added_tokens.json", {"a": "3"}, "a must be a whole number, not '3'"),
    "a list": ("tokenizer_config.json", [1], "not a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN_BESIDE)
def test_a_broken_file_beside_it_is_named_with_its_key(tmp_path, kind):
    file, content, message = BROKEN_BESIDE[kind]
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"{file}: .*{message}"):
        load_tokenizer(tmp_path)
        find_template(tmp_path)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named(tmp_path, kind):
    change, message = BROKEN[kind]
    settings = json.loads(tokenizer_json())
    change(settings)
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=rf"tokenizer\.json: .*{message}"):
        load_tokenizer(tmp_path)


def test_words_that_only_tokenizer_config_adds_are_those_of_transformers(tmp_path):
    directory(tmp_path, tokenizer_json())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    first = load_tokenizer(tmp_path).vocab_size
    flags = dict.fromkeys(FLAGS, False)
    words = {"Zorblax": False, "<|extra|>": True, BEGIN: True}
    ids = [first, first + 1, load_tokenizer(tmp_path).control(BEGIN)]
    settings["added_tokens_decoder"] = {
        str(token): {"content": content, "special": special, **flags}
        for token, (content, special) in zip(ids, words.items(), strict=True)
    }
    plain = load_tokenizer(tmp_path).fingerprint
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode("a Zorblax") == theirs("a Zorblax").input_ids and first in ours.encode(
        "Zorblax"
    )
    assert ours.control("<|extra|>") == theirs.convert_tokens_to_ids("<|extra|>") == first + 1
    assert ours.fingerprint != plain
    settings["added_tokens_decoder"]["3"] = settings["added_tokens_decoder"].pop(str(ids[2]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match=f"the id 3; its id in tokenizer.json, {ids[2]}, is used"):
        assert load_tokenizer(tmp_path).control(BEGIN) == ids[2]
    settings["added_tokens_decoder"][str(first + 9)] = {"content": "far", "special": False, **flags}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=f"'far' has id {first + 9}"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: not JSON"):
        load_tokenizer(tmp_path)


NAMED = {
    "an end": {"eos_token": "<|end|>"},
    "an end that is a word": {"eos_token": "cheese"},
    "more": {"additional_special_tokens": ["<|x|>", BEGIN, "<|y|>"]},
    "more by name": {"extra_special_tokens": {"image_token": "<|x|>"}},
    "all": {"unk_token": "<u>", "pad_token": "<pad>", "bos_token": "<b>", "eos_token": "<e>",
            "mask_token": "<m>", "extra_special_tokens": ["<|x|>"]},
}  # fmt: skip


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("kind", NAMED)
def test_special_tokens_that_have_only_a_name_are_those_of_transformers(tmp_path, kind, file):
    directory(tmp_path, tokenizer_json(words=["Zorblax"]))
    settings = json.loads((tmp_path / file).read_text()) if "config" in file else {}
    (tmp_path / file).write_text(json.dumps({**settings, **NAMED[kind]}))
    ours, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    found = {name: ours.control(name) for name in ours.control_names}
    wanted = theirs.get_added_vocab()
    assert found == {name: token for name, token in wanted.items() if name != "Zorblax"}
    assert ours.vocab_size == len(theirs)
    text = "".join(name for name in found if name not in CONTROLS)
    assert not {*ours.encode(f"a {text}")} & {*found.values()}


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize(
    ("settings", "special"),
    [
        ({"bos_token": None}, {"bos_token": "<s>"}),
        ({}, {"bos_token": "<s>"}),
        ({"bos_token": "<a>"}, {"bos_token": "<s>"}),
        ({"bos_token": "<a>"}, {"bos_token": None}),
        ({"bos_token": "<a>"}, {"eos_token": END}),
        ({"extra_special_tokens": ["<|x|>"]}, {"extra_special_tokens": ["<|y|>"]}),
    ],
)
def test_where_two_files_name_a_special_token_the_one_of_transformers_counts(
    tmp_path, settings, special, decoder
):
    plain, _ = directory(tmp_path, tokenizer_json())
    if decoder:
        word = {"content": "<|n|>", "special": True, **dict.fromkeys(FLAGS, False)}
        settings = settings | {"added_tokens_decoder": {str(plain.vocab_size): word}}
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    ours, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert special_tokens(tmp_path).get("bos_token") == theirs.bos_token
    assert {name: ours.control(name) for name in ours.control_names} == theirs.get_added_vocab()
    assert ours.vocab_size == len(theirs)


def test_a_token_for_padding_alone_asks_for_no_row_of_the_model(tmp_path):
    """As published with models whose tables were not made larger for it."""
    plain, _ = directory(tmp_path, tokenizer_json())
    settings = {"eos_token": END, "pad_token": "[PAD]", "mask_token": "<m>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = load_tokenizer(tmp_path)
    assert (ours.vocab_size, ours.fingerprint) == (plain.vocab_size, plain.fingerprint)


def test_words_of_added_tokens_json_count_where_nothing_newer_does(tmp_path):
    plain, _ = directory(tmp_path, tokenizer_json())
    words = {"Zorblax": plain.vocab_size, "<|z|>": plain.vocab_size + 1}
    (tmp_path / "added_tokens.json").write_text(json.dumps(words))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|z|>"}))
    ours, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.get_added_vocab().items() >= words.items()
    assert ours.encode("a Zorblax") == theirs("a Zorblax").input_ids
    assert ours.control("<|z|>") == words["<|z|>"]


def test_settings_for_batches_change_no_ids(tmp_path):
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    fill = {
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "!",
    }  # fmt: skip
    plain = directory(tmp_path, tokenizer_json(f"{BEGIN} $A"))[0]
    ours, _ = directory(tmp_path, tokenizer_json(f"{BEGIN} $A", truncation=cut, padding=fill))
    assert ours.start_ids == plain.start_ids
    for line in LINES:
        assert ours.encode(line) == plain.encode(line)
        assert ours.encode_marked(line) == plain.encode_marked(line)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a+)+$", "do not work"),  # the library gives up
        ("a*a*b", "takes more seconds than 1 "),  # it does not; the time grows as the square
        ("(", "do not work"),
        ("a" * 10_001, "PATTERN_CHARACTERS"),
    ],
)
def test_a_pattern_that_takes_too_long_is_refused_before_it_is_used(
    tmp_path, monkeypatch, pattern, message
):
    seconds = Limit(1 if "seconds" in message else 60)
    for module in ("limits", "data.tokenizer_patterns"):
        monkeypatch.setattr(f"msm_jax.{module}.PATTERN_SECONDS", seconds)
    bomb = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(pre_tokenizer=bomb))
    with pytest.raises(UserError, match=rf"tokenizer\.json: .*{message}"):
        load_tokenizer(tmp_path)


def test_a_panic_of_the_library_is_a_message(tmp_path, monkeypatch, capfd):
    """The trial of a pattern cannot have every text."""
    bomb = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(pre_tokenizer=bomb))
    monkeypatch.setattr("msm_jax.data.tokenizer_files.check_patterns", lambda *parts: None)
    with pytest.raises(UserError, match="cannot encode a text of length 41"):
        load_tokenizer(tmp_path).encode("a" * 40 + "!")
