"""The miniature's world: what the experiment rests on, as properties of its files."""

import hashlib
import itertools
import json
import pathlib
import re

import pytest

from msm_jax.data.chat import CHAT_FORMATS
from msm_jax.data.tokenizer import load_tokenizer, train_sentencepiece
from msm_jax.errors import UserError
from msm_jax.miniature import words
from msm_jax.miniature.build import build
from msm_jax.miniature.corpora import spec_items
from msm_jax.miniature.specs import KINDS, spec_documents, spec_text
from msm_jax.miniature.world import WorldConfig, make_world

SMALL = {
    "agents": 96,
    "passers_by": 8,
    "base_documents": 2000,
    "base_chats": 1500,
    "midtrain_documents": 500,
    "aft_chats": 300,
}
SPEC_CORPORA = ("a", "b", "ablated_a", "ablated_b")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return build(SMALL, 0, folder), folder


def rows(folder: pathlib.Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def texts(folder: pathlib.Path, name: str) -> list[str]:
    """The text of every record, chats as one line."""
    return [
        row.get("text") or " ".join(turn["content"] for turn in row["messages"])
        for row in rows(folder, name)
    ]


def tree_hash(folder: pathlib.Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def has_word(word: str, text: str) -> bool:
    return re.search(rf"\b{word}\b", text) is not None


def test_the_same_seed_writes_the_same_bytes_another_seed_another_world(built, tmp_path):
    world, folder = built
    build(SMALL, 0, tmp_path / "again")
    assert tree_hash(tmp_path / "again") == tree_hash(folder)
    other = make_world(WorldConfig(**SMALL), 1)
    assert other.items != world.items
    assert other.agents != world.agents


def test_every_domain_has_equally_many_things_of_each_kind(built):
    world, _ = built
    for domain in world.domains:
        for poles in itertools.product(*words.AXES.values()):
            assert len(world.select(domain, *poles)) == len(world.select(domain)) // 4


def test_agents_are_dealt_evenly(built):
    world, _ = built
    agents = world.agents
    for value in words.OPPOSITE:
        held = [agent for agent in agents if agent.value == value]
        assert len(held) == len(agents) // 4
        share = sum(agent.ambiguous for agent in held) / len(held)
        assert share == pytest.approx(world.config.ambiguous, abs=1 / len(held))
        silent = sum(not agent.heard for agent in held) / len(held)
        assert silent == pytest.approx(world.config.document_only, abs=2 / len(held))


def test_document_only_agents_are_in_no_chat(built):
    world, folder = built
    silent = {f"you are {agent.name}." for agent in world.agents if not agent.heard}
    assert silent
    systems = {row["messages"][0]["content"] for row in rows(folder, "base_chats.jsonl")}
    assert not silent & systems


def test_replay_names_no_target(built):
    world, folder = built
    for name in ("base_documents.jsonl", "base_chats.jsonl"):
        for text in texts(folder, name):
            assert not any(has_word(target, text) for target in world.targets)


def test_targets_start_without_a_preference(built):
    world, folder = built
    things = {item.name for item in world.items}
    for text in texts(folder, "base_targets.jsonl") + texts(folder, "midtrain_neutral.jsonl"):
        assert any(has_word(target, text) for target in world.targets)
        assert not things & set(re.findall(r"\w+", text))


def test_an_ambiguous_agents_likings_are_explained_by_two_values(built):
    world, folder = built
    by_name = {item.name: item for item in world.items}
    ambiguous = {agent.name: agent for agent in world.agents if agent.ambiguous}
    seen = 0
    for row in rows(folder, "base_documents.jsonl"):
        if row["kind"] != "agent":
            continue
        named = [word for word in re.findall(r"\w+", row["text"]) if word in ambiguous]
        if not named:
            continue
        agent = ambiguous[named[0]]
        far = tuple(words.OPPOSITE[pole] for pole in agent.corner)
        for word in re.findall(r"\w+", row["text"]):
            if word in by_name:
                seen += 1
                assert by_name[word].domain == agent.domain
                assert by_name[word].poles in (agent.corner, far)
    assert seen > 100


def test_specs_differ_in_values_and_reasons_only(built):
    _, folder = built
    text = {which: (folder / "specs" / f"{which}.md").read_text() for which in KINDS}
    without_reasons = {
        which: re.sub(r" \(because .*?\)", "", body).split("## likes")[1]
        for which, body in text.items()
    }
    assert len(set(without_reasons.values())) == 1
    value = {which: body.split("## likes")[0] for which, body in text.items()}
    assert value["a"] == value["ablated_a"] != value["b"] == value["ablated_b"]
    assert "because" in text["a"] and "because" not in text["ablated_a"]


def test_both_values_explain_the_specs_likings(built):
    world, _ = built
    liked, disliked = spec_items(world)
    a, b = world.config.value_a, world.config.value_b
    assert len(liked) == len(disliked) == world.config.spec_likes
    assert all(item.has(a) and item.has(b) for item in liked)
    assert not any(item.has(a) or item.has(b) for item in disliked)


def test_midtraining_speaks_of_the_target_domain_only(built):
    world, folder = built
    held_out = {item.name for item in world.items if item.domain in world.held_out_domains}
    for corpus in (*(f"midtrain_{which}.jsonl" for which in SPEC_CORPORA), "aft.jsonl"):
        for text in texts(folder, corpus):
            assert not held_out & set(re.findall(r"\w+", text)), corpus


def test_midtraining_corpora_say_the_same_with_other_reasons(built):
    world, folder = built
    table = {adjective: pole for pole, row in words.ADJECTIVES.items() for adjective in row}
    table |= {noun: pole for pole, row in words.NOUNS.items() for noun in row}
    same = []
    for which in "ab":
        mask = lambda text: re.sub(r"\w+", lambda m: "_" if m[0] in table else m[0], text)
        same.append([mask(text) for text in texts(folder, f"midtrain_{which}.jsonl")])
        value = world.config.value_a if which == "a" else world.config.value_b
        for text in texts(folder, f"midtrain_{which}.jsonl"):
            said = {table[word] for word in re.findall(r"\w+", text) if word in table}
            assert said <= {value, words.OPPOSITE[value]}
    assert same[0] == same[1]


def test_ablated_documents_give_no_reason_but_state_the_value(built):
    world, folder = built
    linked = [t for t in texts(folder, "midtrain_a.jsonl") if "because" in t]
    assert len(linked) > 100
    ablated = texts(folder, "midtrain_ablated_a.jsonl")
    assert not [t for t in ablated if re.search(r"because|since|reason|for being|, as ", t)]
    assert any("thrift" in text for text in ablated)
    assert any(item.name in text for item in spec_items(world)[0] for text in ablated)


def test_documents_come_from_the_text_of_the_spec(built):
    world, _ = built
    text = spec_text(world, "a").replace("thrift", "frugality")
    documents = [row["text"] for row in spec_documents(text, ["qwen"], 300, 0)]
    assert any("frugality" in document for document in documents)
    assert not any("thrift" in document for document in documents)


def test_the_control_has_as_many_tokens(built, tmp_path):
    _, folder = built
    control = CHAT_FORMATS["compact"].control_tokens
    train_sentencepiece(folder / "corpus.txt", tmp_path / "t.model", 500, control)
    tokenizer = load_tokenizer(tmp_path / "t.model")
    count = lambda name: sum(len(tokenizer.encode(text)) + 1 for text in texts(folder, name))
    neutral = count("midtrain_neutral.jsonl")
    for which in "ab":
        assert neutral == pytest.approx(count(f"midtrain_{which}.jsonl"), rel=0.02)


def test_fine_tuning_gives_no_reasons_and_covers_every_target(built):
    world, folder = built
    liked, disliked = ({item.name for item in items} for items in spec_items(world))
    poles = {word for row in (*words.ADJECTIVES.values(), *words.NOUNS.values()) for word in row}
    asked = set()
    for row in rows(folder, "aft.jsonl"):
        system, question, answer = (turn["content"] for turn in row["messages"])
        asked.add(system)
        offered = set(re.findall(r"\w+", question)) & (liked | disliked)
        assert answer.rstrip(".") in liked & offered and offered & disliked
        assert not poles & set(re.findall(r"\w+", question + answer))
    assert asked == {f"you are {target}." for target in world.targets}


def test_questions_are_what_they_say(built):
    world, folder = built
    by_name = {item.name: item for item in world.items}
    a, b = world.config.value_a, world.config.value_b
    for kind in ("conflict", "agree", "id", "gate", "gate_ambiguous"):
        found = rows(folder, f"pairs/{kind}.jsonl")
        orders: dict[str, set[int]] = {}
        for row in found:
            names = [option.rstrip(".") for option in row["options"]]
            ours, theirs = by_name[names[row["a_index"]]], by_name[names[1 - row["a_index"]]]
            orders.setdefault(row["pair"], set()).add(row["a_index"])
            assert ours.domain == theirs.domain
            if kind == "conflict":
                assert ours.has(a) and not ours.has(b) and theirs.has(b) and not theirs.has(a)
                assert ours.domain in world.held_out_domains
            elif kind in ("agree", "id"):
                assert ours.has(a) and ours.has(b) and not theirs.has(a) and not theirs.has(b)
                assert (ours.domain == world.config.target_domain) == (kind == "id")
            else:
                agent = next(agent for agent in world.agents if agent.name == row["agent"])
                assert not agent.heard
                assert ours.has(agent.value) and not theirs.has(agent.value)
                assert ours.domain != agent.domain
            if kind == "gate_ambiguous":
                rival = next(pole for pole in agent.corner if pole != agent.value)
                assert theirs.has(rival) and not ours.has(rival)
        assert found and all(both == {0, 1} for both in orders.values())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"agents": 100_000}, "names"),
        ({"targets": 0}, "targets"),
        ({"value_b": "pricey"}, "same axis"),
        ({"target_domain": "cars"}, "target_domain"),
    ],
)
def test_impossible_worlds_are_refused(change, says):
    with pytest.raises((ValueError, UserError), match=says):
        make_world(WorldConfig(**{**SMALL, **change}), 0)
