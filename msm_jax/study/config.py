"""A study's configuration: every key, its meaning and its default."""

from ml_collections import ConfigDict

from msm_jax.train.config import stage


def study() -> ConfigDict:
    """The defaults; a config file sets what its study needs and locks the result.

    A path that begins with "{world}/" is a file that the seed's world builder makes; any other
    path is a file of yours, which counts by its content and not by its name.
    """
    config = ConfigDict()
    config.name = "study"  # in results.json and the plan
    config.title = ""  # of the report
    config.seeds = (0,)  # each draws its own world, weights and data order
    config.workers = 2  # stages that run at a time, each in a process of its own
    config.platform = "cpu"  # each worker has one core; "": whatever JAX finds, with workers=1
    # Files made from the seed.
    config.world = ConfigDict(
        {
            # A function of (options, seed, directory) as "module:name"; "": all files are yours.
            "builder": "",
            "options": ConfigDict(),  # WorldConfig() for the miniature's builder
        }
    )
    # Trained where train.tokenizer is "".
    config.tokenizer = ConfigDict(
        {
            "corpus": "{world}/corpus.txt",  # a text, one sentence a line
            "vocab_size": 1000,  # of the SentencePiece model
        }
    )
    config.train = stage()  # what all stages have in common; seed and parent are the study's
    config.stages = ConfigDict()  # name -> stage(): the keys that differ from `train`
    config.arms = ConfigDict()  # name -> stages in order, the first from fresh weights
    config.evals = ConfigDict()  # name -> evaluation()
    # Stages of this name are also evaluated after so many of their steps.
    config.dose = ConfigDict(
        {
            "stage": "",  # a name in `stages`; "": no dose curve
            "steps": (),  # checkpoints are kept at these
            "eval": "",  # a name in `evals`
        }
    )
    config.contrasts = ConfigDict()  # name -> contrast()
    config.figure = ConfigDict(  # what the report begins with
        {
            "eval": "",  # the headline figure's
            "measure": "rate of choice A",  # what its rate is, in words
            "groups": ConfigDict(),  # name -> figure_group()
            "headline": "",  # the contrast that the report begins with
        }
    )
    # Arms whose rate in the figure's evaluation should be one half, give or take `within`.
    config.controls = ConfigDict(
        {
            "arms": (),  # names in `arms`
            "within": 0.15,  # of one half
        }
    )
    return config


def evaluation(
    pairs: str = "",
    arms: tuple[str, ...] = (),
    at_least: float = 0.0,
    scorers: tuple[str, ...] = ("logprob", "generated"),
    max_tokens: int = 8,
) -> ConfigDict:
    """Preference pairs asked of the last stage of arms.

    pairs: JSONL file of questions.
    arms: who is asked; () asks all.
    at_least: above 0 this is a gate: a rate below it means that the arm is not what it should be.
    scorers: the first one's rate is the evaluation's.
    max_tokens: of a generated answer.
    """
    return ConfigDict(
        {
            "pairs": pairs,
            "arms": tuple(arms),
            "at_least": float(at_least),
            "scorers": tuple(scorers),
            "samples": 1,  # generated answers per question
            "temperature": 0.0,  # of generated answers; 0 is greedy
            "max_tokens": max_tokens,
            "rows": 64,  # answers computed at a time
        }
    )


def contrast(
    label: str = "",
    eval: str = "",
    plus: tuple[str, ...] = (),
    minus: tuple[str, ...] = (),
    expected: int = 0,
) -> ConfigDict:
    """Per seed, the rates of the arms in `plus` less those in `minus`; then over seeds.

    label: what it is, in words.
    eval: whose rates.
    plus: arms whose rates are added.
    minus: arms whose rates are taken away; as many as in `plus`.
    expected: the sign that the hypothesis says, 0 if it says nothing.
    """
    return ConfigDict(
        {
            "label": label,
            "eval": eval,
            "plus": tuple(plus),
            "minus": tuple(minus),
            "expected": expected,
        }
    )


def figure_group(label: str = "", before: str = "", after: str = "") -> ConfigDict:
    """Two bars.

    label: what stands under them.
    before: the arm before fine-tuning.
    after: the arm after it.
    """
    return ConfigDict(
        {
            "label": label,
            "before": before,
            "after": after,
        }
    )
