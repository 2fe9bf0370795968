"""What MkDocs calls while it builds the site: generated parts, generated pages, links.

A line of a page such as `<!-- flags: msm_jax.train -->` becomes what the code says there:

    flags: MODULE     the command's flags
    keys: FORM        a config's keys (see config_keys.py)
    shipped:          every config that comes along, with what it sets
    include: FILE     a page from elsewhere in the repository, without its title

Links to files of the repository that are no pages are taken off: the site may lie anywhere.
"""

import os
import pathlib
import re
import sys

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # configs import the package

import api_pages  # noqa: E402
import command_flags  # noqa: E402
import config_keys  # noqa: E402

from msm_jax import settings  # noqa: E402

MARKER = re.compile(r"^<!-- (flags|keys|shipped|include): ?(\S*) -->$", re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FAR_PICTURE = re.compile(r"!\[([^\]]*)\]\(https?:[^)]+\)")  # the site loads nothing from afar
CODE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)$|(?:^ {4}.*\n?)+|`[^`\n]+`)", re.M | re.S)


def on_files(files, config):
    """Adds the pages of the API reference."""
    pages = {"api/index.md": api_pages.front_page()}
    pages |= {f"api/{room}.md": api_pages.room_page(room) for room in api_pages.ROOMS}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fills in what is generated and sets the links right."""
    path = f"docs/{page.file.src_uri}"
    markdown = relinked(markdown, path, path)
    return MARKER.sub(lambda found: generated(found[1], found[2], path), markdown)


def generated(kind: str, name: str, page: str) -> str:
    """The markdown of one marker."""
    if kind == "flags":
        return flags_table(command_flags.probe(name)["flags"])
    if kind == "keys":
        return keys_table(name)
    if kind == "shipped":
        return "\n\n".join(map(shipped_section, config_keys.shipped()))
    text = (ROOT / name).read_text(encoding="utf-8")
    return relinked(re.sub(r"\A# .*\n", "", text), name, page)


def relinked(markdown: str, source: str, page: str) -> str:
    """The links of the text of `source`, as they are from `page`; both in ROOT."""

    def link(found) -> str:
        picture, text, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        name, _, anchor = target.partition("#")
        place = os.path.normpath(os.path.join(os.path.dirname(source), name))
        place = {"README.md": "docs/index.md", "benchmarks/README.md": "docs/benchmarks.md",
                 "notebooks/README.md": "docs/notebooks.md", "docs": "docs/index.md",
                 "benchmarks": "docs/benchmarks.md"}.get(place, place)  # fmt: skip
        if place.startswith("docs/"):
            near = os.path.relpath(place, os.path.dirname(page))
            return f"{picture}[{text}]({near}{'#' + anchor if anchor else ''})"
        shown = text.strip("`")
        return f"`{place}`" if shown == place else f"{text} (`{place}`)"

    markdown = FAR_PICTURE.sub(r"\1", markdown)
    parts = CODE.split(markdown)
    return "".join(
        part if number % 2 else LINK.sub(link, part) for number, part in enumerate(parts)
    )


# ------------------------------------------------------------------ tables


def flags_table(flags: list[dict]) -> str:
    rows = [
        (
            f"`--{flag['name']}`",
            flag["type"],
            "**required**" if flag["required"] else value(flag["default"]),
            api_pages.escape(flag["help"]),
        )
        for flag in flags
    ]
    return table(("flag", "type", "default", "meaning"), rows)


def keys_table(name: str) -> str:
    rows = []
    for path, part in config_keys.rows(config_keys.FORMS[name]):
        text = part.meaning
        if isinstance(part, settings.Key):
            kind, default = allowed(part), value(part.default)
            if part.harmless:
                text += f". Free to change: {part.harmless}"
        else:
            inside = part.entry if isinstance(part, settings.Named) else part
            default, kind = "", "group"
            if isinstance(inside, settings.Key):
                kind = allowed(inside)
            elif inside is None or inside.name:
                kind = link(name, inside.name if inside else "WorldConfig")
            if isinstance(part, settings.Named):
                kind = f"name → {kind}"
        rows.append((f"`{path}`", kind, default, api_pages.escape(text)))
    return table(("key", "may be", "default", "meaning"), rows)


def allowed(key: settings.Key) -> str:
    """What a key may be, choices as code."""
    if key.item:
        return key.allowed.replace(key.item.allowed, allowed(key.item))
    if key.choices:
        return "one of " + ", ".join(f"`{word}`" if word else '`""`' for word in key.choices)
    return key.allowed


def link(page: str, form: str) -> str:
    """To a form's table, from the page of another."""
    place = "" if PAGES[page] == PAGES[form] else PAGES[form]
    return f"[{form}]({place}#{form.lower()})"


PAGES = {
    **dict.fromkeys(
        ("study", "evaluation", "contrast", "absorption", "figure_group", "target", "WorldConfig"),
        "study.md",
    ),
    **dict.fromkeys(("stage", "source", "probe"), "stage.md"),
    **dict.fromkeys(("generate", "writer"), "corpus.md"),
    "reasons": "reasons.md",
}


def shipped_section(config: config_keys.Shipped) -> str:
    """What a config says of itself, and what it sets."""
    form = config_keys.COMMANDS[config.command]
    rows = []
    for path, found in config_keys.leaves(config.load()).items():
        default = getattr(config_keys.find(form, path), "default", None)
        if found != default:
            rows.append((f"`{path}`", value(found), value(default)))
    head = ("key", "value", "default")
    listed = table(head, rows)
    inner = "\n".join(f"    {line}" for line in listed.splitlines())
    return (
        f"### {config.path}\n\n```text\n{config.docstring}\n```\n\n"
        f'??? note "What it sets ({len(rows)} keys that differ from the defaults)"\n\n{inner}\n'
    )


def value(default: object) -> str:
    """A default as code; empty where there is none."""
    if default is None or hasattr(default, "items"):
        return ""
    text = str(default) if not isinstance(default, str) else f'"{default}"'
    return f"`{text.replace(str(ROOT) + '/', '')}`"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    cell = lambda text: re.sub(r"\s+", " ", text).replace("|", "\\|")
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)
