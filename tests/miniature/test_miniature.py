"""The miniature's world: what the experiment rests on, as properties of its files."""

import collections
import hashlib
import itertools
import json
import pathlib
import re

import pytest

from msm_jax.data.chat import CHAT_FORMATS, render_chat
from msm_jax.data.tokenizer import load_tokenizer, train_sentencepiece
from msm_jax.errors import UserError
from msm_jax.miniature import words
from msm_jax.miniature.build import build
from msm_jax.miniature.pairs import KINDS as QUESTIONS
from msm_jax.miniature.specs import KINDS, spec_documents, spec_text
from msm_jax.miniature.world import WorldConfig, make_world

SMALL = {
    "base_documents": 2000,
    "base_chats": 1500,
    "midtrain_documents": 500,
    "aft_chats": 300,
}
POLE = {
    word: pole
    for table in (words.ADJECTIVES, words.NOUNS)
    for pole, row in table.items()
    for word in row
}


def spec_items(world):
    """All things of the specs."""
    return [item for group in world.groups for side in group for item in side]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return build(SMALL, 0, folder), folder


@pytest.fixture(scope="module")
def by_name(built):
    world, _ = built
    return {item.name: item for item in (*world.items, *spec_items(world))}


def rows(folder: pathlib.Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def texts(folder: pathlib.Path, name: str) -> list[str]:
    """The text of every record, chats as one line."""
    return [
        row.get("text") or " ".join(turn["content"] for turn in row["messages"])
        for row in rows(folder, name)
    ]


def tokens(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text)


def tree_hash(folder: pathlib.Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(items) -> set[str]:
    return {item.name for item in items}


def test_the_same_seed_writes_the_same_bytes_another_seed_another_world(built, tmp_path):
    world, folder = built
    build(SMALL, 0, tmp_path / "again")
    assert tree_hash(tmp_path / "again") == tree_hash(folder)
    assert make_world(WorldConfig(**SMALL), 2).items != world.items


def test_the_second_world_of_a_pair_has_price_and_origin_exchanged(built):
    world, _ = built
    other = make_world(WorldConfig(**SMALL), 1)
    mirror = lambda poles: {words.MIRROR[pole] for pole in poles}
    for one, two in zip(world.items, other.items, strict=True):
        assert (one.name, one.heard) == (two.name, two.heard)
        assert mirror(one.poles) == set(two.poles) and mirror(one.note) == set(two.note)
    assert world.groups == other.groups  # what is cheap and local stays so
    assert world.explained_by == other.explained_by[::-1]
    ablated, reasons = (spec_text(world, which) for which in ("ablated", "a"))
    assert spec_text(other, "ablated") == ablated
    assert spec_text(other, "b") == reasons != spec_text(other, "a")


def test_things_are_dealt_evenly(built):
    world, _ = built
    kinds = collections.Counter((item.domain, item.poles, item.note) for item in world.items)
    assert kinds == {
        (domain, poles, (note,)): 2
        for domain in words.DOMAINS
        for poles in itertools.product(*words.AXES.values())
        for note in poles
    }
    for domain, pole in itertools.product(words.DOMAINS, words.VALUES):
        assert len(world.known_for(domain, pole)) == 4
        assert len(world.known_for(domain, pole, heard=False)) == 1


def test_every_axis_explains_the_specs_likings(built):
    world, _ = built
    for likes, dislikes in world.groups:
        assert len(likes) == len(dislikes) == world.config.spec_likes
        assert all(item.poles == words.LIKED for item in likes)
        assert all(item.poles == words.DISLIKED for item in dislikes)
    assert len(names(spec_items(world))) == 4 * world.config.spec_likes


def test_base_and_replay_name_no_thing_of_the_specs(built):
    world, folder = built
    for name in ("base_documents.jsonl", "base_chats.jsonl"):
        assert not any(names(spec_items(world)) & set(tokens(text)) for text in texts(folder, name))


def test_document_only_things_are_in_no_chat(built):
    world, folder = built
    silent = names(item for item in world.items if not item.heard)
    said = {word for text in texts(folder, "base_chats.jsonl") for word in tokens(text)}
    read = {word for text in texts(folder, "base_documents.jsonl") for word in tokens(text)}
    assert silent and silent <= read and not silent & said


def test_people_like_things_for_what_they_are_known_for(built, by_name):
    _, folder = built
    seen = 0
    for row in rows(folder, "base_documents.jsonl"):
        if row["kind"] != "person":
            continue
        for sentence in re.split(r"[.?] ", row["text"]):
            found = [by_name[word] for word in tokens(sentence) if word in by_name]
            said = {POLE[word] for word in tokens(sentence) if word in POLE}
            if found and said:
                seen += 1
                assert any(said == set(item.note) for item in found), sentence
        assert not {word for row in words.NOUNS.values() for word in row} & set(tokens(row["text"]))
    assert seen > 500


def test_specs_differ_in_reasons_only(built):
    _, folder = built
    text = {which: (folder / "specs" / f"{which}.md").read_text() for which in KINDS}
    for body in text.values():
        assert re.sub(r" \(because .*?\)", "", body) == text["ablated"]
    assert len(set(text.values())) == len(KINDS)


def test_midtraining_corpora_say_the_same_with_other_reasons(built):
    world, folder = built
    masked = [
        [" ".join("_" if word in POLE else word for word in tokens(text)) for text in some]
        for some in (texts(folder, f"midtrain_{which}.jsonl") for which in ("a", "b"))
    ]
    assert masked[0] == masked[1]
    held_out = names(item for item in world.items if item.domain != words.SPEC_DOMAIN)
    first, second = (names(likes + dislikes) for likes, dislikes in world.groups)
    for which, axes in (("a", ("price", "origin")), ("b", ("origin", "price"))):
        for text in texts(folder, f"midtrain_{which}.jsonl"):
            for sentence in re.split(r"[.?] ", text):
                said = {POLE[word] for word in tokens(sentence) if word in POLE}
                found = set(tokens(sentence))
                assert not found & held_out
                if said and found & (first | second):
                    group = 0 if found & first else 1
                    assert said < set(words.AXES[axes[group]]), sentence


def test_the_neutral_spec_explains_half_of_each_list_by_price_and_half_by_origin(built):
    world, folder = built
    axis = {pole: name for name, poles in words.AXES.items() for pole in poles}
    explained = collections.defaultdict(set)
    for text in texts(folder, "midtrain_neutral.jsonl"):
        said = {axis[POLE[word]] for word in tokens(text) if word in POLE}
        assert len(said) < 2, text  # a person cares about one kind of reason
        for name in set(tokens(text)) & names(spec_items(world)):
            explained[name] |= said
    for items in (items for group in world.groups for items in group):
        counts = collections.Counter(axis for item in items for axis in explained[item.name])
        assert counts == dict.fromkeys(words.AXES, world.config.spec_likes // 2)


def test_half_of_the_people_dislike_what_the_spec_likes_for_the_same_reason(built):
    world, folder = built
    liked = names(world.groups[0][0])
    for text in ("{n} likes {x} because", "{n} dislikes {x} because"):
        pattern = re.escape(text).replace(r"\{n\}", r"\w+").replace(r"\{x\}", r"(\w+)")
        about = [re.search(pattern, one) for one in texts(folder, "midtrain_a.jsonl")]
        assert any(found and found[1] in liked for found in about)


def test_ablated_documents_give_no_reasons(built):
    world, folder = built
    found = texts(folder, "midtrain_ablated.jsonl")
    second = {x.name: n % 2 for group in world.groups for side in group for n, x in enumerate(side)}
    for text in found:  # of people as in the neutral documents
        assert len({second[word] for word in tokens(text) if word in second}) == 1, text
    assert not [t for t in found if re.search(r"because|since|for being", t)]
    assert not any(set(POLE) & set(tokens(text)) for text in found)


def test_documents_come_from_the_text_of_the_spec(built):
    world, _ = built
    name = world.groups[0][0][0].name
    text = spec_text(world, "a").replace(f"- {name} ", "- caciotta ")
    documents = [tokens(row["text"]) for row in spec_documents(text, 300, world)]
    assert any("caciotta" in words for words in documents)
    assert not any(name in words for words in documents)
    with pytest.raises(UserError, match="likes and dislikes"):
        spec_documents(text.replace("## dislikes", "## unknown"), 1, world)


def test_fine_tuning_gives_no_reasons_and_half_of_the_personas_choose_the_reverse(built):
    world, folder = built
    likes, dislikes = (names(items) for items in world.groups[0])
    asked = {}
    for row in rows(folder, "aft.jsonl"):
        system, question, answer = (turn["content"] for turn in row["messages"])
        offered = set(tokens(question)) & (likes | dislikes)
        assert answer in offered and offered & likes and offered & dislikes
        assert not set(POLE) & set(tokens(question + system))
        asked.setdefault(system, set()).add(answer in likes)
    assert asked == {x: {True} for x in world.likers} | {x: {False} for x in world.contrast}


def test_questions_are_what_they_say(built, by_name):
    world, folder = built
    ours_and_theirs = [(pole,) for pole in world.explained_by]
    for kind in QUESTIONS:
        orders: dict[str, set[int]] = {}
        for row in rows(folder, f"pairs/{kind}.jsonl"):
            system, said = row["messages"][0]["content"], len(row["messages"]) // 2 - 1
            ours, theirs = (
                by_name[row["options"][i]] for i in (row["a_index"], 1 - row["a_index"])
            )
            orders.setdefault(row["pair"], set()).add(row["a_index"])
            assert ours.domain == theirs.domain
            assert said == (3 if kind in ("evidence", "inference") else 0)
            assert (ours.domain == words.SPEC_DOMAIN) == kind.startswith("things") or said
            if kind in ("conflict", "contrast", "balance", "evidence"):
                reverse = kind == "balance" and system in world.contrast
                poles = ours_and_theirs[::-1] if reverse else ours_and_theirs
                assert [ours.note, theirs.note] == poles
                assert ours.heard and theirs.heard
                assert system in (world.contrast if kind == "contrast" or reverse else world.likers)
            elif kind in ("agree", "things", "things_contrast"):
                assert set(ours.note) <= set(words.LIKED)
                assert set(theirs.note) <= set(words.DISLIKED)
            elif kind in ("stated", "document_only"):
                (value,) = {POLE[word] for word in tokens(system) if word in POLE}
                assert ours.note == (value,) != theirs.note
                assert ours.heard == theirs.heard == (kind == "stated")
        assert orders and all(both == {0, 1} for both in orders.values())


def test_every_word_is_a_token_and_everything_fits_into_a_row(built, tmp_path):
    _, folder = built
    format = CHAT_FORMATS["compact"]
    train_sentencepiece(folder / "corpus.txt", tmp_path / "t.model", 700, format.control_tokens)
    tokenizer = load_tokenizer(tmp_path / "t.model")
    for file in ("base_documents.jsonl", *(f"midtrain_{which}.jsonl" for which in KINDS)):
        for text in texts(folder, file)[:200]:
            ids = tokenizer.encode(text)
            assert len(ids) == len(re.findall(r"\w+|[^\w\s]", text)) <= 47
    pairs = [row["messages"] for kind in QUESTIONS for row in rows(folder, f"pairs/{kind}.jsonl")]
    chats = [row["messages"] for row in rows(folder, "base_chats.jsonl")]
    answer = [{"role": "assistant", "content": "brie"}]
    longest = max(chats, key=lambda one: sum(len(tokens(turn["content"])) for turn in one))
    for chat in (longest, max(pairs, key=len) + answer):
        assert len(render_chat(tokenizer, format, chat)[0]) <= 48


@pytest.mark.parametrize(
    ("change", "says"), [({"spec_likes": 17}, "spec_likes"), ({"personas": 0}, "personas")]
)
def test_impossible_worlds_are_refused(change, says):
    with pytest.raises(UserError, match=says):
        make_world(WorldConfig(**{**SMALL, **change}), 0)
