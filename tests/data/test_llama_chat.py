"""Llama 3's forms and SentencePiece under templates, beside `transformers` on the same files."""

import json

import pytest

from msm_jax.data.chat import CHAT_FORMATS, render_chat
from msm_jax.data.template import difference, find_format, misread, own_format
from msm_jax.data.tokenizer import load_tokenizer, train_sentencepiece
from msm_jax.errors import UserError

CONTROLS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
)  # fmt: skip
PART = "'<|start_header_id|>' + turn['role'] + '<|end_header_id|>\\n\\n'"
# In our own words, of the forms that Llama 3's and 3.1's checkpoints carry.
LLAMA3 = (
    "{{- bos_token }}{%- for turn in messages %}"
    "{{- " + PART + " + turn['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
LLAMA31 = (
    "{%- set sys = '' %}{%- if messages[0].role == 'system' %}"
    "{%- set sys = messages[0].content | trim %}{%- set messages = messages[1:] %}{%- endif %}"
    "{{- bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\n' }}"
    "{{- 'Cutting Knowledge Date: December 2023\\n' }}"
    "{%- if date_string is not defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{{- 'Today Date: ' + date_string + '\\n\\n' + sys + '<|eot_id|>' }}"
) + LLAMA3.replace("{{- bos_token }}", "")
TALKS = [
    [{"role": "user", "content": "Which is it, 3 or 1234567?\n"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "don't\n\n  go"}],
    [
        {"role": "user", "content": "caf\u00e9 \U0001f600 \u4f60\u597d"},
        {"role": "assistant", "content": "  Yes.\n\n- 1\n- 2 "},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "No."},
    ],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small byte-level BPE with Llama 3's control tokens, and a tokenizer_config.json."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("llama")
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(CONTROLS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([str(TALKS), "user assistant system Be brief. Yes. No."], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def with_template(folder, template, **more):
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "chat_template": template,
        **more,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(folder)


@pytest.mark.parametrize(("name", "template"), [("llama3", LLAMA3), ("llama3.1", LLAMA31)])
def test_conversations_are_those_of_transformers(folder, name, template):
    transformers = pytest.importorskip("transformers")
    tokenizer = with_template(folder, template)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    own, builtin = own_format(folder, tokenizer), CHAT_FORMATS[name]
    assert own.end == "<|eot_id|>"
    assert difference(own, builtin) is None and misread(tokenizer, own) is None
    for talk in TALKS:
        for prompt in (False, True):
            wanted = theirs.apply_chat_template(
                talk, add_generation_prompt=prompt, return_dict=False
            )
            for format in (own, builtin):
                assert render_chat(tokenizer, format, talk, generation_prompt=prompt)[0] == wanted
    ids, loss = render_chat(tokenizer, own, TALKS[2])
    learned = [token for token, weight in zip(ids, loss, strict=True) if weight]
    assert tokenizer.decode(learned) == "Yes.\n\n- 1\n- 2No."
    assert learned.count(tokenizer.control("<|eot_id|>")) == 2


def test_what_differs_is_told(folder):
    tokenizer = with_template(folder, LLAMA31)
    found = difference(own_format(folder, tokenizer), CHAT_FORMATS["llama3"])
    assert "Cutting Knowledge Date" in found


def test_templates_by_name_and_a_file_beside_them(folder):
    plain = own_format(folder, with_template(folder, LLAMA3))
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": LLAMA3}]
    tokenizer = with_template(folder, named)
    chosen = own_format(folder, tokenizer)  # "tool_use" is for chats with tools
    assert LLAMA3 in chosen.source and chosen.fingerprint == plain.fingerprint
    (folder / "chat_template.jinja").write_text(LLAMA31)
    assert own_format(folder, tokenizer).source == LLAMA31
    (folder / "chat_template.jinja").unlink()
    tokenizer = with_template(folder, None)
    assert own_format(folder, tokenizer) is None
    with pytest.raises(UserError, match="has no chat template"):
        find_format("own", folder, tokenizer)
    with pytest.raises(UserError, match="chat_template.default must be a text"):
        own_format(folder, with_template(folder, {"default": 1}))


def test_a_tokenizer_that_treats_the_first_piece_apart_is_noticed(folder, tmp_path):
    """Its own way gives the first piece of a text a space in front; ours gives it to every one."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {
        "type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": True
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert misread(load_tokenizer(folder), CHAT_FORMATS["llama3"]) is None
    found = misread(load_tokenizer(tmp_path), CHAT_FORMATS["llama3"])
    assert found.startswith("<|begin_of_text|><|start_header_id|>user")


def test_sentencepiece_reads_a_template_too(tmp_path):
    text = "user assistant system the fox and the dog\n" * 50
    (tmp_path / "corpus.txt").write_text(text)
    train_sentencepiece(tmp_path / "corpus.txt", tmp_path / "tokenizer.model", 60, CONTROLS)
    tokenizer = load_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(LLAMA3.replace("bos_token", f"'{CONTROLS[0]}'"))
    own = find_format("own", tmp_path, tokenizer)
    talk = [{"role": "user", "content": "the fox"}, {"role": "assistant", "content": "the dog"}]
    ids, loss = render_chat(tokenizer, own, talk)
    assert ids == render_chat(tokenizer, CHAT_FORMATS["llama3"], talk)[0]
    assert ids == tokenizer.encode_marked(own.write(talk, False))
    learned = [token for token, weight in zip(ids, loss, strict=True) if weight]
    assert tokenizer.decode(learned) == "the dog"
