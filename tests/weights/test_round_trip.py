"""What goes in comes out: load -> save -> load, and load -> save -> transformers and peft."""

import json
import pathlib
import shutil
import sys
import warnings

import numpy as np
import pytest

from msm_jax.api import load
from msm_jax.convert import check
from msm_jax.data.template import other_templates
from msm_jax.errors import UserError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "model"))
import reference  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*built-in format"),
    pytest.mark.filterwarnings("ignore:.*asks for an answer in another way"),
]
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
LLAMA = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
)  # fmt: skip
SPECIAL = {
    "qwen2": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "qwen3": {"eos_token": {"__type": "AddedToken", "content": "<|im_end|>", "special": True}},
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
}
# In our own words; each writes something that no built-in format writes.
TURN = "<|im_start|>{{ turn.role | upper }}\n{{ turn.content }}<|im_end|>{{ eos_token }}\n"
TEMPLATES = {
    "qwen2": "{% for turn in messages %}" + TURN + "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>ASSISTANT\n{% endif %}",
    "qwen3": "{% for turn in messages %}" + TURN.replace("{{ eos_token }}", "") + "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>ASSISTANT\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}",
    "llama": "{{ bos_token }}{% for turn in messages %}<|start_header_id|>{{ turn.role | upper }}"
    "<|end_header_id|>{{ turn.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>ASSISTANT<|end_header_id|>{% endif %}",
}
CHATS = [
    [{"role": "user", "content": "Which is it?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "It's cheap."}],
    [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "Yes.\n"},
        {"role": "user", "content": "two"},
    ],
]


def tokenizer_json(controls):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["user assistant system It's cheap and local. Yes."], trainer)
    tokenizer.add_special_tokens(list(controls))
    return tokenizer.to_str()


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """family -> (directory without a template, one with its own, the ids of control tokens)."""
    found = {}
    for family in SPECIAL:
        controls = LLAMA if family == "llama" else QWEN
        text = tokenizer_json(controls)
        ids = {token["content"]: token["id"] for token in json.loads(text)["added_tokens"]}
        end = SPECIAL[family]["eos_token"]
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL[family]}
        folders = []
        for kind in ("base", "instruct"):
            folder = tmp_path_factory.mktemp(f"{family}-{kind}")
            model = tiny(family, len(ids) + 300)
            model.config.eos_token_id = ids[end["content"] if isinstance(end, dict) else end]
            model.config.bos_token_id = ids[controls[0]]
            if kind == "instruct":
                model.generation_config.update(temperature=0.6, top_p=0.9, do_sample=True)
                model.generation_config.eos_token_id = [model.config.eos_token_id]
                (folder / "chat_template.jinja").write_text(TEMPLATES[family])
            model.save_pretrained(folder)
            (folder / "tokenizer.json").write_text(text)
            (folder / "tokenizer_config.json").write_text(json.dumps(settings))
            folders.append(folder)
        found[family] = (*folders, ids)
    return found


def tiny(family, rows):
    name = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}[family]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=rows, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=6, rms_norm_eps=1e-6,
        tie_word_embeddings=family == "qwen3", max_position_embeddings=777,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.2 + (value.dim() == 1))
    return model


def adapter_on(base, folder, template=None, inside=False):
    """An adapter, perhaps with a template in a file of its own or in tokenizer_config.json."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    reference.random_adapter(model, folder, r=3)
    if template and inside:
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    elif template:
        (folder / "chat_template.jinja").write_text(template)
    return folder


IDS = list(range(40, 64))  # one length, one compilation


def their_logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor([IDS])).logits[0].numpy()


def our_logits(model):
    return model.logits([IDS])[0]


def prompts(model):
    return [model.encode(chat) for chat in CHATS]


def same_model(found, wanted):
    """Equal prompts, ends of answers, and logits."""
    assert prompts(found) == prompts(wanted)
    assert set(found.ends) == set(wanted.ends) and found.ends[0] == wanted.ends[0]
    assert np.abs(our_logits(found) - our_logits(wanted)).max() <= 1e-4


def same_for_transformers(folder, wanted, base):
    """As `transformers` loads it by default."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = [
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        for chat in CHATS
    ]
    assert theirs == prompts(wanted)
    assert tokenizer.convert_tokens_to_ids(tokenizer.eos_token) == wanted.ends[0]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert set(model.generation_config.eos_token_id) == set(wanted.ends)
    assert np.abs(their_logits(model) - our_logits(wanted)).max() <= 1e-4
    before, after = (json.loads((place / "config.json").read_text()) for place in (base, folder))
    for key in ("max_position_embeddings", "bos_token_id", "eos_token_id", "model_type"):
        assert before[key] == after[key]


BUILTIN = {"qwen2": "chatml", "qwen3": "qwen3-no-thinking", "llama": "llama3.1"}
CASES = [
    *((family, kind, None) for family in SPECIAL for kind in ("base", "instruct", "adapter")),
    *((family, kind, name) for family, name in BUILTIN.items() for kind in ("base", "adapter")),
    ("qwen2", "instruct", "chatml"),
    ("qwen2", "adapter with template", None),
    ("qwen3", "template inside", None),
    ("llama", "adapter with template", None),
    ("qwen3", "instruct", "own-no-thinking"),
    ("qwen3", "template inside", "own-no-thinking"),
]


@pytest.mark.parametrize(("family", "kind", "asked"), CASES)
def test_what_is_saved_is_what_was_loaded(bases, tmp_path, family, kind, asked):
    plain, instruct, _ = bases[family]
    base = plain if kind == "base" else instruct
    adapter = None
    if "adapter" in kind or "inside" in kind:
        template = TEMPLATES[family].replace("ASSISTANT", "HELPER") if kind != "adapter" else None
        adapter = adapter_on(base, tmp_path / "adapter", template, "inside" in kind)
    model = load(base, adapter, chat_format=asked)
    if asked not in (None, "own-no-thinking"):
        assert model.chat_format == asked
    elif kind != "base":
        ids = prompts(model)[0]
        name = "HELPER" if adapter and kind != "adapter" else "ASSISTANT"
        assert name in model.tokenizer.decode(ids)
        assert family != "llama" or ids[0] == model.tokenizer.control("<|begin_of_text|>")
    if adapter:
        without = load(base, chat_format=asked)
        swapped = without.with_adapter(adapter)
        assert swapped.identity() == model.identity()
        same_model(swapped, model)
        assert swapped.with_adapter(None).identity() == without.identity()

    model.save(tmp_path / "exported")
    exported = load(tmp_path / "exported")
    same_model(exported, model)
    assert adapter or exported.identity() == model.identity()
    same_for_transformers(tmp_path / "exported", model, base)

    model.save(tmp_path / "run", "orbax")
    run = load(tmp_path / "run")
    assert run.identity() == model.identity()
    same_model(run, model)
    run.save(tmp_path / "published")
    for name in ("config.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.json"):
        wanted = (tmp_path / "exported" / name).read_text()
        assert (tmp_path / "published" / name).read_text() == wanted
    same_for_transformers(tmp_path / "published", model, base)

    if adapter:
        from peft import AutoPeftModelForCausalLM

        for number, source in enumerate((model, run)):
            place = tmp_path / f"alone {number}"
            source.save(place, "peft")
            settings = json.loads((place / "adapter_config.json").read_text())
            assert settings["base_model_name_or_path"] == str(base)
            theirs = AutoPeftModelForCausalLM.from_pretrained(place)
            assert np.abs(their_logits(theirs) - our_logits(model)).max() <= 1e-4
            if kind == "adapter":
                same_model(without.with_adapter(place), model)


def test_an_adapter_on_a_run_is_saved_with_a_warning(bases, tmp_path):
    """peft cannot load a run of ours, whatever is written into adapter_config.json."""
    _, instruct, _ = bases["qwen3"]
    adapter = adapter_on(instruct, tmp_path / "adapter")
    load(instruct).save(tmp_path / "run", "orbax")
    with pytest.warns(UserWarning, match="its base is the run .*run, which peft cannot load"):
        load(tmp_path / "run", adapter).save(tmp_path / "alone", "peft")


def test_a_merged_model_is_another_base(bases, tmp_path):
    """An adapter that is put on it does not belong to the first one's checkpoint."""
    _, instruct, _ = bases["qwen3"]
    adapter = adapter_on(instruct, tmp_path / "adapter")
    model = load(instruct, adapter).merged().with_adapter(adapter)
    with pytest.warns(UserWarning, match="its base is a model that is not saved"):
        model.save(tmp_path / "alone", "peft")
    settings = json.loads((tmp_path / "alone" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] is None


def test_a_template_that_asks_for_the_date_is_exported_with_a_warning(bases, tmp_path):
    base = shutil.copytree(bases["qwen3"][1], tmp_path / "base")
    dated = "{{ strftime_now('%d %b %Y') }}" + TEMPLATES["qwen3"]
    (base / "chat_template.jinja").write_text(dated)
    with pytest.warns(UserWarning, match="today's date: .* this package writes 26 Jul 2024"):
        load(base).save(tmp_path / "exported")


def test_templates_that_are_not_used_are_named(bases, tmp_path):
    base = shutil.copytree(bases["qwen3"][1], tmp_path / "base")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "rag.jinja").write_text("x")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    named = {"default": TEMPLATES["qwen3"], "tool_use": "{{ tools }}"}
    settings["chat_template"] = [{"name": k, "template": v} for k, v in named.items()]
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match="several chat templates: rag, tool_use are neither used"):
        load(base)
    (base / "chat_template.jinja").unlink()
    assert other_templates(base) == ["rag"]


def test_an_adapter_with_another_tokenizer_is_named(bases, tmp_path):
    _, instruct, ids = bases["qwen3"]
    adapter = adapter_on(instruct, tmp_path / "adapter")
    content = json.loads((instruct / "tokenizer.json").read_text())
    content["padding"] = None  # the same ids
    file = adapter / "tokenizer.json"
    file.write_text(json.dumps(content, indent=3))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*gives other ids")
        load(instruct, adapter)
    content["added_tokens"].append(
        {**content["added_tokens"][-1], "id": max(ids.values()) + 1, "content": "<|tool|>"}
    )
    file.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"gives other ids .* first for '<\|tool\|>'"):
        load(instruct, adapter)


def test_an_adapter_of_another_base_is_named(bases, tmp_path):
    _, instruct, _ = bases["qwen3"]
    file = adapter_on(instruct, tmp_path / "adapter") / "adapter_config.json"
    settings = json.loads(file.read_text())
    for name, warned in (
        (f"lab/{instruct.name.upper()}", False),
        ("lab/another", True),
        (None, False),
    ):
        file.write_text(json.dumps({**settings, "base_model_name_or_path": name}))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load(instruct, tmp_path / "adapter")
        assert any("trained on 'lab/another'" in str(each.message) for each in caught) is warned


def test_an_adapter_that_ends_elsewhere_than_its_base_is_named(bases, tmp_path):
    _, instruct, _ = bases["qwen3"]
    adapter = adapter_on(instruct, tmp_path / "adapter")
    for end, named in (("<|im_end|>", False), ("<|endoftext|>", True)):
        (adapter / "tokenizer_config.json").write_text(json.dumps({"eos_token": end}))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load(instruct, adapter)
        assert sum("its eos_token is" in str(each.message) for each in caught) == named


def test_ends_that_the_model_cannot_say_are_named(bases, tmp_path):
    base = shutil.copytree(bases["qwen3"][1], tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 9999]}))
    with pytest.warns(UserWarning, match=r"eos_token_id \[9999\] are not among the \d+ rows"):
        load(base)


def test_who_stops_elsewhere_is_another_model(bases, tmp_path):
    base = shutil.copytree(bases["qwen3"][1], tmp_path / "base")
    before = load(base).identity()
    settings = json.loads((base / "generation_config.json").read_text())
    for change, same in (({"temperature": 0.1}, True), ({"eos_token_id": [5]}, False)):
        (base / "generation_config.json").write_text(json.dumps({**settings, **change}))
        assert (load(base).identity() == before) is same


def test_a_base_that_has_moved_is_named_as_on_the_hub(bases, tmp_path):
    _, instruct, _ = bases["qwen3"]
    base = shutil.copytree(instruct, tmp_path / "base")
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "_name_or_path": "lab/tiny"}))
    load(base, adapter_on(base, tmp_path / "adapter")).save(tmp_path / "run", "orbax")
    base.rename(tmp_path / "moved")
    load(tmp_path / "run").save(tmp_path / "alone", "peft")
    settings = json.loads((tmp_path / "alone" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "lab/tiny"


def test_an_export_without_its_format_is_refused_and_leaves_nothing(bases, tmp_path, monkeypatch):
    model = load(bases["qwen3"][1])
    monkeypatch.setattr("msm_jax.api.find_template", lambda place: TEMPLATES["qwen2"])
    with pytest.raises(UserError, match="cannot be exported: it would differ"):
        model.save(tmp_path / "exported")
    assert not list(tmp_path.iterdir())


def test_check_names_sampling_settings_and_damaged_tensors(bases, tmp_path):
    _, instruct, _ = bases["qwen3"]
    words = "\n".join(check(str(instruct)))
    assert "sampling    do_sample True, temperature 0.6, top_p 0.9: not applied" in words
    base = shutil.copytree(instruct, tmp_path / "base")
    file = base / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    file.write_bytes(content)
    with pytest.raises(
        UserError, match=r"(?s)parameters .*tokenizer .*not finite  model.*: 1 of its numbers are"
    ):
        check(str(base))
    with pytest.raises(UserError, match=r"base: has weights .*--check.*:\n  model.*: 1 of its num"):
        load(base)


def test_what_a_run_says_of_its_model_template_and_tokenizer_is_compared(bases, tmp_path):
    load(bases["qwen3"][1]).save(tmp_path / "run", "orbax")
    edits = {
        "checkpoints/0/_CHECKPOINT_METADATA": ('"rope_theta": ', '"rope_theta": 9', "checksum"),
        "chat_template.jinja": ("ASSISTANT", "Assistant", "has the format 'own', .*differently"),
        "tokenizer.json": ("{", "{ ", "not the tokenizer"),
    }
    for name, (before, after, says) in edits.items():
        run = shutil.copytree(tmp_path / "run", tmp_path / name.replace("/", "-"))
        text = (run / name).read_text()
        assert before in text
        (run / name).write_text(text.replace(before, after, 1))
        with pytest.raises(UserError, match=says):
            load(run)
    assert load(tmp_path / "chat_template.jinja", chat_format="own").chat_format == "own"


def test_wrong_ids_of_ends_are_a_message(bases, tmp_path):
    base = shutil.copytree(bases["qwen3"][1], tmp_path / "base")
    for wrong in ("x", [1.5], True):
        (base / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}))
        with pytest.raises(
            UserError, match="generation_config.json: eos_token_id .* have to be integers"
        ):
            load(base)
