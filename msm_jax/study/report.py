"""report.html: one file that shows what a study found. Everything in it comes from results.json
and from the study's own files, and every text is escaped.
"""

import html
import pathlib
from collections.abc import Iterable, Sequence

from msm_jax import strict_json
from msm_jax.study import files, plots
from msm_jax.study.display import clock
from msm_jax.study.graph import WORLD, Study
from msm_jax.study.results import CHANCE, interval_text, mean_of

_STYLE = """
:root { --ink: #1f2328; --soft: #5f6670; --line: #e3e5e8; --accent: #2a6f97; --good: #2d6a4f;
  --bad: #b23a2e; }
body { color: var(--ink); background: #fff; font: 16px/1.55 system-ui, sans-serif; margin: 0; }
main { max-width: 960px; margin: 0 auto; padding: 32px 20px 80px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; border-bottom: 1px solid var(--line);
  padding-bottom: .25rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p.lead { font-size: 1.15rem; border-left: 4px solid var(--accent); padding-left: .9rem;
  margin: 1.2rem 0; }
p.note, td.note, figcaption { color: var(--soft); font-size: .88rem; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; margin: .6rem 0; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; } .grid { display: flex; flex-wrap: wrap; gap: .5rem; }
.grid img { flex: 1 1 280px; max-width: 420px; }
pre { background: #f6f7f8; padding: .8rem; overflow-x: auto; font-size: .8rem; }
.sample { background: #f6f7f8; border-radius: 4px; padding: .35rem .7rem; margin: .3rem 0;
  font-size: .9rem; }
.role { color: var(--soft); font-size: .78rem; margin-right: .4rem; }
.said { color: var(--accent); font-weight: 600; } summary { cursor: pointer; }
"""


def write(results: dict, study: Study, workdir: pathlib.Path) -> None:
    """report.html, and figure.png beside it."""
    config = study.config
    title = config["title"] or config["name"]
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="note">{_text(_subtitle(results))}</p>',
        *_headline(results, workdir),
        *_contrasts(results),
        *_gates(results),
        *_dose(results),
        *_losses(study, workdir),
        *_chats(study, workdir),
        *_corpora(study, workdir),
        *_times(results, study),
        *_origin(results),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )
    files.write_text(workdir / "report.html", page)


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML."""
    header = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f'<td class="number">{cell}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{header}</tr>{body}</table></div>'


def _image(figure, alt: str) -> str:
    return f'<img src="{plots.svg_uri(figure)}" alt="{html.escape(alt, quote=True)}">'


def _word(good: bool, yes: str, no: str) -> str:
    return f'<span class="{"good" if good else "bad"}">{yes if good else no}</span>'


def _subtitle(results: dict) -> str:
    config = results["config"]
    seeds = len(config["seeds"])
    return (
        f"{seeds} seed{'s' if seeds != 1 else ''}, {len(config['arms'])} arms, "
        f"{len(results['stages'])} stages; {results['created']}; "
        f"msm_jax {results['code']['msm_jax']} ({results['code']['source']})"
    )


# ------------------------------------------------------------------ what was found


def sentence(results: dict) -> str:
    """The headline contrast in words; says so when there is nothing to be seen."""
    name = results["config"]["figure"]["headline"]
    entry = next(c for c in results["contrasts"] if c["name"] == name)
    if entry["difference"] is None:
        return f"{entry['label']}: no valid answers, so nothing can be said."
    found = f"{entry['label']}: {interval_text(entry, 'difference', signed=True)}"
    seeds = f"over {entry['n_pairs']} seed{'s' if entry['n_pairs'] != 1 else ''}"
    if entry["ci_low"] is None:
        return f"{found}. This shows no effect yet."
    bounds = f"{found} (95 % interval {seeds})."
    if entry["ci_low"] <= 0 <= entry["ci_high"]:
        return f"{bounds} The interval holds 0: this study does not show an effect."
    sign = 1 if entry["difference"] > 0 else -1
    if entry["expected"] and sign != entry["expected"]:
        return f"{bounds} The interval excludes 0 on the side opposite to the one expected."
    return f"{bounds} The interval excludes 0."


def _comparison(results: dict) -> str:
    """The means behind the headline contrast."""
    figure = results["config"]["figure"]
    entry = results["config"]["contrasts"][figure["headline"]]
    words = [
        f"{arm}: {interval_text(mean_of(results, arm, entry['eval']))}"
        for side in ("plus", "minus")
        for arm in entry[side]
    ]
    return f"How often the model {figure['measure']}: " + "; ".join(words) + "."


def _headline(results: dict, workdir: pathlib.Path) -> list[str]:
    figure, parts = results["config"]["figure"], []
    if figure["headline"]:
        parts.append(f'<p class="lead">{_text(sentence(results))}</p>')
        parts.append(f"<p>{_text(_comparison(results))}</p>")
    if not figure["groups"]:
        return parts
    drawn = plots.bars(results)
    aside = workdir / "figure.partial.png"
    drawn.savefig(aside, dpi=160)
    aside.replace(workdir / "figure.png")
    rows = []
    for group in figure["groups"].values():
        means = [mean_of(results, group[k], figure["eval"]) for k in ("before", "after")]
        rows.append([_text(group["label"]), *(_text(interval_text(mean)) for mean in means)])
    return [
        *parts,
        f"<figure>{_image(drawn, 'rates of all arms before and after fine-tuning')}"
        "<figcaption>All arms get the same fine-tuning chats in the same order; they differ in the "
        "documents read before. Points are seeds, bars their means, vertical lines 95 % intervals "
        "over seeds.</figcaption></figure>",
        _table(["", "before fine-tuning", "after fine-tuning"], rows),
    ]


def _contrasts(results: dict) -> list[str]:
    if not results["contrasts"]:
        return []
    rows = []
    for entry in results["contrasts"]:
        expected = {1: "above 0", -1: "below 0"}.get(entry["expected"], "")
        others = [
            f"{scorer} {interval_text(numbers, 'difference', signed=True)}"
            for scorer, numbers in entry["by_scorer"].items()
            if scorer != entry["scorer"]
        ]
        text = interval_text(entry, "difference", signed=True)
        rows.append(
            [entry["label"], text, str(entry["n_pairs"]), expected, entry["verdict"], *others]
        )
    width = max(map(len, rows))
    head = ["contrast", "difference", "seeds", "expected", "verdict", "other scorer"][:width]
    padded = [[_text(cell) for cell in row + [""] * (width - len(row))] for row in rows]
    return [
        "<h2>Contrasts between arms</h2>",
        f"<figure>{_image(plots.contrasts(results), 'contrasts')}</figure>",
        _table(head, padded),
        '<p class="note">Paired over seeds: each seed has its own world and weights, and all its '
        "arms share them. Widening is the gap after fine-tuning less the gap before it.</p>",
    ]


def _gates(results: dict) -> list[str]:
    parts = ["<h2>Checks</h2>"]
    if results["gates"]:
        rows = [
            [
                _text(gate["name"]),
                _text(gate["arm"]),
                str(gate["seed"]),
                "-" if gate["rate"] is None else f"{gate['rate']:.3f}",
                f"{gate['at_least']:.2f}",
                _word(gate["passed"], "passed", "not reached"),
            ]
            for gate in results["gates"]
        ]
        parts += [
            "<h3>Gates: what the base has to be able to do</h3>",
            _table(["gate", "arm", "seed", "rate", "at least", ""], rows),
        ]
    if results["controls"]:
        rows = [
            [_text(c["arm"]), _text(interval_text(c)), f"{CHANCE} ± {c['bound']}",
             _word(c["near"], "near", "not near")]
            for c in results["controls"]
        ]  # fmt: skip
        parts += ["<h3>Controls: arms that should not lean</h3>"]
        parts.append(_table(["arm", "rate", "bound", ""], rows))
    if results["agreement"]:
        scorers = list(results["agreement"][0]["means"])
        rows = [
            [_text(a["arm"]), *(f"{a['means'][s]:.2f}" for s in scorers),
             _word(a["agree"], "same side", "apart")]
            for a in results["agreement"]
        ]  # fmt: skip
        parts += ["<h3>Scorers: on one side of chance?</h3>", _table(["arm", *scorers, ""], rows)]
    return parts if len(parts) > 1 else []


def _dose(results: dict) -> list[str]:
    if not results["dose"]:
        return []
    return [
        "<h2>Dose of fine-tuning</h2>",
        f"<figure>{_image(plots.dose(results), 'rate by fine-tuning steps')}"
        "<figcaption>Checkpoints of the same runs; thin lines are seeds. Step 0 is before "
        "fine-tuning.</figcaption></figure>",
    ]


# ------------------------------------------------------------------ what it was made of


def _losses(study: Study, workdir: pathlib.Path) -> list[str]:
    names: dict[str, list] = {}
    for stage in study.stages.values():
        if stage.kind == "train":
            rows = files.read_lines(files.stage_dir(workdir, stage.id) / "metrics.jsonl")
            label = stage.path[-2] if len(stage.path) > 1 else stage.name
            names.setdefault(stage.name, []).append((label, rows))
    images = [
        _image(plots.losses(name, curves), f"loss of {name}") for name, curves in names.items()
    ]
    return [
        "<h2>Loss curves</h2>",
        f'<div class="grid">{"".join(images)}</div>',
        '<p class="note">A line per stage; colours are the stage before. The same curves are in '
        "stages/&lt;id&gt;/tensorboard.</p>",
    ]


def _messages(messages: Sequence[dict], last: bool = False) -> str:
    parts = []
    for number, message in enumerate(messages):
        said = ' class="said"' if last and number == len(messages) - 1 else ""
        content = _text(message["content"]) or "<em>(nothing)</em>"
        role = f'<span class="role">{_text(message["role"])}</span>'
        parts.append(f"<div>{role}<span{said}>{content}</span></div>")
    return f'<div class="sample">{"".join(parts)}</div>'


def _chats(study: Study, workdir: pathlib.Path) -> list[str]:
    """Three sampled answers of every arm of the first seed."""
    seed, parts = study.config["seeds"][0], []
    for arm in study.config["arms"]:
        folder = files.evals_dir(workdir, study.arms[arm, seed][-1])
        chats = files.read_lines(folder / "chats.jsonl")
        if chats:
            shown = "".join(_messages(chat["messages"], last=True) for chat in chats)
            parts.append(f"<details><summary>{_text(arm)}</summary>{shown}</details>")
    if not parts:
        return []
    note = "Sampled at temperature 0.7; the same questions for every arm."
    return [f"<h2>Chats (seed {seed})</h2>", f'<p class="note">{note}</p>', *parts]


def _corpora(study: Study, workdir: pathlib.Path) -> list[str]:
    """The beginning of every corpus that a stage of the first seed reads, and its size."""
    seed, seen, parts = study.config["seeds"][0], set(), []
    for stage in study.stages.values():
        for name, source in stage.config.get("data", {}).items() if stage.seed == seed else ():
            if source["path"] in seen:
                continue
            seen.add(source["path"])
            run = files.stage_dir(workdir, stage.id)
            record = (files.read_json(run / "config.json") or {}).get("corpora", {}).get(name, {})
            size = f"{record.get('documents', 0):,} records, {record.get('tokens', 0):,} tokens"
            path = pathlib.Path(files.place(workdir, source["path"], stage.world))
            rows = files.read_lines(path, limit=4)
            shown = "".join(
                _messages(row["messages"])
                if "messages" in row
                else f'<div class="sample">{_text(row.get("text", ""))[:1500]}</div>'
                for row in rows
            )
            label = source["path"].removeprefix(WORLD)
            parts.append(f"<details><summary>{_text(label)}: {size}</summary>{shown}</details>")
    return [f"<h2>Corpora (seed {seed})</h2>", *parts, *_specs(study, workdir, seed)]


def _specs(study: Study, workdir: pathlib.Path, seed: int) -> list[str]:
    """The specs that the world was built with."""
    world = next((s for s in study.stages.values() if s.kind == "world" and s.seed == seed), None)
    if world is None:
        return []
    folder = files.stage_dir(workdir, world.id) / "specs"
    return [
        f"<details><summary>specs/{_text(file.name)}</summary>"
        f"<pre>{_text(file.read_text(encoding='utf-8'))}</pre></details>"
        for file in sorted(folder.glob("*.md"))
    ]


def _times(results: dict, study: Study) -> list[str]:
    spent: dict[str, list[float]] = {}
    for name, seconds in results["seconds"]["stages"].items():
        spent.setdefault(study.stages[name].name, []).append(seconds)
    spent["evaluations"] = list(results["seconds"]["evals"].values())
    rows = [
        [_text(name), str(len(values)), f"{sum(values):.1f}", f"{max(values, default=0):.1f}"]
        for name, values in spent.items()
    ]
    total = sum(map(sum, spent.values()))
    note = (
        f"{clock(total)} of work in all, {clock(results['seconds']['this_run'])} since the last "
        f"start, on {study.config['workers']} workers. A stage that was taken up again counts its "
        "last run only."
    )
    head = ["part", "times", "seconds in all", "longest"]
    return ["<h2>Where the time went</h2>", _table(head, rows), f'<p class="note">{note}</p>']


def _origin(results: dict) -> list[str]:
    made = results["made_with"]
    code = [entry["code"] for entry in made] + [results["code"]]
    head = [
        "",
        *(f"{len(e['stages'])} stages, {len(e['evals'])} evaluated" for e in made),
        "report",
    ]
    names = dict.fromkeys(name for each in code for name in each)
    versions = _table(
        head, [[_text(n), *(_text(each.get(n, "-")) for each in code)] for n in names]
    )
    config = _text(strict_json.dumps(results["config"], indent=1))
    return [
        "<h2>How it was made</h2>",
        versions,
        f"<details><summary>the study's config</summary><pre>{config}</pre></details>",
    ]
