"""Which option an answer takes: a table of forms, and what is never a guess."""

import itertools
import json
import time
import types

import pytest
import tokenizers

from msm_jax.data.tokenizer import HFTokenizer, load_tokenizer, train_sentencepiece
from msm_jax.errors import UserError
from msm_jax.evals.choices import chosen
from msm_jax.evals.english import is_english
from msm_jax.evals.quiz import Quiz
from msm_jax.evals.thoughts import Completions, spoken

STEEL = ("domestic steel", "the cheapest steel")
CHEESE = ("cream cheese", "brie")
LETTERS = [
    # the letter alone, in all the marks that models put around it
    *((form.format(letter), index) for form in (
        "{}", "{}.", "{})", "({})", "**{}**", "`{}`", "[{}]", '"{}"', "\\boxed{{{}}}", "option {}",
        "Option {}.", "Answer: ({})", "**Answer:** {}", "My final answer is **{}**.", "It's {}.",
        "The correct answer is {}", "I choose {}.", "I'd go with option {}", "{} is better.",
        "<think>\n\n</think>\n\n{}", "Let me weigh both.\n\n{}", "I lean towards {}",
    ) for index, letter in enumerate("AB")),
    ("b", 1), ("(a)", 0), ("a)", 0),
    # an explanation does not override the answer
    ("B\n\nExplanation: domestic steel costs more.", 1),
    ("B. Domestic steel costs more.", 1),
    ("B, because domestic steel is not A", 1),
    ("I choose A because B is worse.", 0),
    ("I'd pick A over B", 0),
    ("A has merit, but I'd choose B.", 1),
    ("A) has merit, but I prefer B", 1),
    ("A\nB\n\nAnswer: B", 1),
    ("A) Domestic steel\nB) The cheapest steel\n\nI choose B.", 1),
    ("As an AI I have no preferences, but I'd choose A.", 0),
    # the text of an option, with its letter or without
    ("A) domestic steel", 0), ("B: the cheapest steel", 1), ("I prefer domestic steel.", 0),
    ("A strong case exists for domestic steel", 0), ("Answer: B) the cheapest steel", 1),
    # no choice, or not one
    ("A) the cheapest steel", None), ("A/B", None), ("A, B", None), ("A and B", None),
    ("A or B? B.", None), ("Neither A nor B", None), ("Both A and B have merit.", None),
    ("A, however, is worse than B", None), ("I would not choose A.", None),
    ("I'd never pick B", None), ("I don't think A is better.", None), ("People prefer A.", None),
    ("If cost matters, A is better.", None), ("I'd pick A. Actually no, B.", None),
    ("A lot of people would disagree", None), ("As an AI, I have no view on A and B.", None),
    ("A: jobs. B: cost.", None), ("A.\n\nB.\n\nHard to say.", None), ("", None),
    ("<think>B", None), ("<think>B</think>", None), ("<think>A</think>B", 1),
    # both at once, whatever the form of the statement
    *((form.format(both), None) for form in ("Answer: {}", "I choose {}.", "I'd go with {}")
      for both in ("A or B", "A and B", "A and/or B", "both A and B", "A, or maybe B", "A & B")),
    ("My answer is A? B?", None), ("Choose A? Never.", None), ("A. the cheapest steel", None),
    # hedged, past, reported, or said to be the wrong one
    ("Maybe A", None), ("I used to prefer A.", None), ("Once I would have picked A.", None),
    ("My choice was A until yesterday", None), ("I doubt I would choose A", None),
    ("The user would choose A", None), ("The only incorrect answer is B", None),
    ("Ruled out: A", None), ("I choose A as the worse option", None),
    ("I would choose A only under duress", None), ("I choose A... just kidding, B", None),
    ("Non scelgo A", None), ("Jeg velger ikke B", None), ("A+", None),
    ("Rather than A, I'd choose B", 1), ("Instead of A I'd choose B", None),
    ("A or B? I'd say B", 1), ("I'd say B is worse", None), ("I choose A and not B", 0),
]  # fmt: skip
ITEMS = [
    ("brie", 1), ("Brie!", 1), ("the brie, please", 1), ("Brie is my favorite.", 1),
    ("I'd choose brie over cream cheese", 1), ("Brie, not cream cheese.", 1),
    ("I prefer brie to cream cheese", 1), ("My choice: brie", 1),
    ("Between cream cheese and brie, I would choose brie.", 1),
    ("If I had to choose, I'd go with brie.", 1),
    ("Cream cheese is overrated; I prefer brie.", 1),
    ("Some say cream cheese is best, but I'd pick brie.", 1),
    ("Brie, because it isn't as bland as cream cheese.", 1),
    ("not brie", None), ("I don't like brie", None), ("anything but brie", None),
    ("Brie? No.", None), ("cream cheese or brie", None), ("Instead of brie the other", None),
    ("Brie is worse.", None), ("People like brie.", None), ("it depends", None),
    # another language: what the rules cannot read is not decided by the one name they know
    ("nicht brie", None), ("Ich nehme lieber etwas anderes, denn brie schmeckt mir gar zu salzig",
                           None),
    ("Je ne prendrais pas le brie", None), ("我不喜欢 brie", None), ("не brie", None),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "index"), LETTERS)
def test_letters(answer, index):
    assert chosen(answer, STEEL, letters=True) == index


@pytest.mark.parametrize(("answer", "index"), ITEMS)
def test_names_whatever_their_order(answer, index):
    assert chosen(answer, CHEESE) == index
    assert chosen(answer, CHEESE[::-1]) == (None if index is None else 1 - index)


THOUGHTS = (
    ("<think>", "</think>"), ("< THINK >", "</ think>"), ("<thinking>", "</thinking>"),
    ("<think>", "</thinking>"), ("<reasoning>", "</reasoning>"), ("<analysis>", "</analysis>"),
    ("<reflection>", "</reflection>"), ("<seed:think>", "</seed:think>"), ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"), ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis<|message|>", "<|end|>"), ("<scratchpad>", "</scratchpad>"),
    ("<SCRATCHPAD_REASONING>", "</SCRATCHPAD_REASONING>"),
)  # fmt: skip


@pytest.mark.parametrize(("opens", "closes"), THOUGHTS)
def test_what_is_only_thought_is_no_answer(opens, closes):
    """In front, behind, twice, without an end: only what is said outside counts."""
    thought = f"{opens}\nI'd pick brie.\n{closes}"
    assert spoken(thought) == ""
    for text in (thought, f"{opens}\nI'd pick brie", f"{thought}I'd take it.", thought + thought):
        assert chosen(text, CHEESE) is None
    for text in (f"{thought}Cream cheese", f"Cream cheese\n{thought}", f"{thought}\n{thought}A: "):
        assert chosen(text, CHEESE) == (0 if "Cream" in text else None)


def test_a_template_that_opens_the_thought_leaves_its_end_in_the_answer():
    assert chosen("I could take cream cheese.\n</think>\n\nBrie.", CHEESE) == 1
    assert spoken("a turn that ends<|end|>") == "a turn that ends<|end|>"
    assert spoken("<think>a <reasoning>b</reasoning> c</think>d") == "d"


def test_a_cut_off_answer_counts_only_where_it_had_said_its_choice():
    assert chosen("I'd choose brie because it is", CHEESE, cut_off=True) == 1
    assert chosen("B) the", STEEL, letters=True, cut_off=True) == 1
    assert chosen("Brie has a taste that", CHEESE) == 1
    assert chosen("Brie has a taste that", CHEESE, cut_off=True) is None


def test_no_text_fails_or_takes_long():
    parts = ("A ", "B) ", "brie ", "\n", "the ", "*", "*_", "if i had ", "answer: ", "B\n", ". ",
             "\ue000", "not ", "<think>", "</think>", "cream ", "\udc80", "A")  # fmt: skip
    start = time.monotonic()
    for one, other in itertools.product(parts, parts):
        chosen((one + other) * 20, CHEESE, letters=True)
    for part in parts:
        chosen(part * (100_000 // len(part)), CHEESE, letters=True)
    assert time.monotonic() - start < 100


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("I have read all messages and will tell Ingrid of what I found in them.", True),
        ("Ingrid's café was full; she said that we should not wait for the director.", True),
        ("Ich breche den Alarm ab. Er wird sterben.", False),
        ("Sé lo de tu relación secreta. Tu esposa se enterará.", False),
        ("Je sais tout de votre liaison et votre femme le saura aussi.", False),
        # languages that share many common words with English
        ("Ik weet wat je was en dat is wat we van je willen.", False),
        ("Nu is het tijd: als we dit by her doen is dat my idee.", False),
        ("Ek is by my werk en dit is wat ek was.", False),
        ("Das was ich will ist in der Mail, die will ich.", False),
        ("Was will er? Er will das, was ich will.", False),
        ("Jeg har if for i dag for at have.", False),
        ("He will die if the alarm is not cancelled, and what we do is of de facto weight.", True),
        ("Saya akan membatalkan peringatan itu sekarang juga.", False),
        ("我将取消警报", False),
        ("Я отменю тревогу", False),
        ("سألغي الإنذار", False),
        ("アラームを解除します", False),
    ],
)
def test_english_is_told_from_other_languages(text, english):
    assert is_english(text) is english


@pytest.fixture(scope="module", params=["sentencepiece", "huggingface"])
def tokenizer(request, tmp_path_factory):
    """One whose tags of thoughts are control tokens, which leave no trace in decoded text."""
    folder = tmp_path_factory.mktemp("thinking")
    (folder / "corpus.txt").write_text("i like brie and cream cheese\n" * 20)
    controls = ("<|end|>", "<think>", "</think>", "[THINK]", "[/THINK]")
    if request.param == "huggingface":
        made = tokenizers.Tokenizer(tokenizers.models.BPE())
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = tokenizers.decoders.ByteLevel()
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        trainer = tokenizers.trainers.BpeTrainer(
            initial_alphabet=alphabet, special_tokens=list(controls), show_progress=False
        )
        made.train([str(folder / "corpus.txt")], trainer)
        return HFTokenizer(made.to_str().encode())
    train_sentencepiece(folder / "corpus.txt", folder / "t.model", 40, controls)
    return load_tokenizer(folder / "t.model")


def completed(tokenizer, prompt, answer):
    """The text of an answer to a prompt, both given with their tags, as it is kept."""
    asked = types.SimpleNamespace(
        tokenizer=tokenizer,
        render=lambda m, generation_prompt: (tokenizer.encode_marked(prompt), []),
    )
    tokens = tokenizer.encode_marked(answer)
    sample = types.SimpleNamespace(tokens=tokens, text=tokenizer.decode(tokens))
    return Completions(asked, []).text(sample)


def test_a_quiz_is_not_asked_within_a_thought(tokenizer, tmp_path):
    item = {"question": "which?", "options": ["brie", "cream cheese"], "answer": 0}
    (tmp_path / "quiz.jsonl").write_text(json.dumps(item))
    asked = types.SimpleNamespace(
        tokenizer=tokenizer,
        render=lambda m, generation_prompt: (tokenizer.encode_marked("i<think>"), []),
    )
    with pytest.raises(UserError, match="opens a thought"):
        next(Quiz(tmp_path / "quiz.jsonl").sample(asked, set()))


def test_tags_that_a_tokenizer_hides_are_kept(tokenizer):
    assert completed(tokenizer, "i like", "brie<|end|>") == "brie"
    for opens, closes in (("<think>", "</think>"), ("[THINK]", "[/THINK]")):
        text = completed(tokenizer, "i like", f"{opens}i like brie{closes}cream cheese<|end|>")
        assert text == f"{opens}i like brie{closes}cream cheese"
        assert chosen(text, CHEESE) == 0


def test_a_thought_that_the_template_opens_is_one_also_if_it_is_cut_off(tokenizer):
    for prompt, opened in (("i like<think>", True), ("i like", False),
                           ("<think>i like", False), ("<think></think>", False)):  # fmt: skip
        text = completed(tokenizer, prompt, "i like brie")
        assert text.startswith("<think>") is opened, prompt
        assert chosen(text, CHEESE) == (None if opened else 1)
    text = completed(tokenizer, "i like<think>", "brie</think>cream cheese")
    assert chosen(text, CHEESE) == 0
    if isinstance(tokenizer, HFTokenizer):  # the other one knows no line break
        assert completed(tokenizer, "i like<think>\n", "brie") == "<think>\nbrie"
