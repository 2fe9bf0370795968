"""The documentation as a site: built without a warning, whole, and at home without a network."""

import html.parser
import os
import pathlib
import re
import subprocess
import sys
import urllib.parse

import commands
import pytest

ROOT = commands.ROOT
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The built site, and what the build said."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return folder, done


class Page(html.parser.HTMLParser):
    """The links, anchors and loaded files of a page."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag in LOADS and values.get(LOADS[tag]) and values.get("rel") != "canonical":
            self.loads.append(values[LOADS[tag]])


@pytest.fixture(scope="session")
def parsed(site):
    folder, _ = site
    # What a server shows for any missing page has links from its root.
    return {path: Page(path) for path in folder.rglob("*.html") if path.name != "404.html"}


def test_it_builds_without_a_warning(site):
    folder, done = site
    assert done.returncode == 0, done.stderr
    reported = [line for line in done.stderr.splitlines() if re.match("WARNING|ERROR", line)]
    assert not reported
    assert (folder / "index.html").stat().st_size > 10_000


def test_every_page_is_there_with_its_generated_parts(site, parsed):
    folder, _ = site
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "hooks" not in path.parts]
    for path in pages:
        name = path.relative_to(ROOT / "docs").with_suffix(".html")
        assert (folder / name).is_file(), f"{name}: not built"
    for name, words in {
        "commands/train.html": ("<code>--coordinator</code>", "HOST:PORT of process 0"),
        "commands/evaluate.html": ("<code>--judge_cache</code>", "Default: preferences: 1;"),
        "commands/power.html": ("<code>--conditions</code>", "<code>27</code>"),
        "config/stage.html": ("<code>optimizer.warmup_fraction</code>", "<code>0.05</code>"),
        "config/study.html": ("<code>fact_share</code>", 'href="stage.html#stage"'),
        "config/corpus.html": ("<code>documents</code>, <code>chats</code>",),
        "config/index.html": ("What it sets", "A lab record:"),
        "api/index.html": (
            'id="msm_jax.load"',
            'id="msm_jax.Model"',
            "One float32 array per completion",
        ),
        "api/model.html": ('id="msm_jax.model.decoder.forward"',),
        "benchmarks.html": ("Packed documents",),
    }.items():
        text = (folder / name).read_text(encoding="utf-8")
        assert all(word in text for word in words), (name, words)
    for path in parsed:
        left = re.findall(r"&lt;!-- \w+:|<!-- (?:flags|keys|shipped|include):", path.read_text())
        assert not left, path


def test_every_internal_link_resolves(site, parsed):
    folder, _ = site
    broken = []
    for path, page in parsed.items():
        for link in page.links + page.loads:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            place = path
            if parts.path:
                place = pathlib.Path(
                    os.path.normpath(path.parent / urllib.parse.unquote(parts.path))
                )
            anchor = urllib.parse.unquote(parts.fragment)
            known = parsed.get(place)
            if not place.is_file() or (known and anchor not in known.anchors):
                broken.append(f"{path.relative_to(folder)}: {link}")
    assert not broken, "\n".join(broken)
    assert sum(len(page.links) for page in parsed.values()) > 1000


def test_it_loads_nothing_from_elsewhere(site, parsed):
    folder, _ = site
    for path, page in parsed.items():
        foreign = [link for link in page.loads if urllib.parse.urlsplit(link).netloc]
        assert not foreign, path
    for sheet in folder.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_links_of_the_repository_resolve():
    """As somebody sees them who reads the files and not the site; api/ is made with the site."""
    broken = []
    for page in commands.pages():
        text = re.sub(r"^```.*?^```$|`[^`\n]+`", "", page.read_text("utf-8"), flags=re.M | re.S)
        for target in LINK.findall(text):
            name, _, anchor = target.partition("#")
            place = page.parent / name if name else page
            if re.match(r"[a-z]+:", target) or place.parent == ROOT / "docs" / "api":
                continue
            if place.parts[-2:-1] == ("api",) or (place.exists() and _has(place, anchor)):
                continue
            broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken, "\n".join(broken)


def _has(place: pathlib.Path, anchor: str) -> bool:
    """Whether a page has the heading of an anchor."""
    if not anchor or place.suffix != ".md":
        return True
    heads = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.MULTILINE)
    slugs = {
        re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head.lower())).strip("-") for head in heads
    }
    return anchor in slugs


def test_the_citation_names_this_version():
    version = commands.ROOT.joinpath("msm_jax/__init__.py").read_text().split('__version__ = "')[1]
    version = version.partition('"')[0]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{version}}}" in (ROOT / "docs" / "cite.md").read_text()
    assert f"\n## {version}" in (ROOT / "docs" / "changelog.md").read_text()
