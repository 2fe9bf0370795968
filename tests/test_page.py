"""The one way to HTML: every value is text, a page loads nothing, a missing name is an error."""

import html.parser
import pathlib
import re

import jinja2
import pytest

import msm_jax
from msm_jax import page

PACKAGE = pathlib.Path(msm_jax.__file__).parent
HOSTILE = "</title></pre><script>alert('x')</script><img src=x onerror=\"y\">&amp;\x00\x1b\udc80"


class Elements(html.parser.HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("table", {"head": [HOSTILE], "rows": [[HOSTILE, 1, 0.5, None, True]]}),
        ("texts", {"items": [(HOSTILE, HOSTILE)], "height": 9}),
        ("chats", {"columns": {HOSTILE: [{"role": HOSTILE, "content": HOSTILE}]}}),
        ("picture", {"alt": HOSTILE, "uri": "data:x"}),
    ],
)
def test_every_value_is_text(kind, values):
    shown = page.render("notebook.html", kind=kind, caption=HOSTILE, **values)
    found = Elements(shown)
    assert not found.tags & {"script", "title"} and "onerror" not in found.attributes
    assert ("img" in found.tags) is (kind == "picture")
    assert "alert('x')</script>" in found.text and "&amp;\\x00\\x1b\\udc80" in found.text
    shown.encode("utf-8")


def test_a_name_that_a_template_does_not_get_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="rows"):
        page.render("notebook.html", kind="table", caption="", head=[])


def test_templates_are_the_only_html_and_load_nothing():
    templates = [*(PACKAGE / "page").glob("*.html"), *(PACKAGE / "page").glob("*.css")]
    assert len(templates) > 6
    for path in templates:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|@import|url\(|\|\s*safe|autoescape", text), path
        assert path.suffix == ".css" or not re.search(r"<link|<iframe|<object|<base", text), path
    styled = [path.name for path in templates if "<style" in path.read_text(encoding="utf-8")]
    assert styled == ["base.html"]
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bhtml\.escape|<!doctype|</(?:td|div|p|span)>", text), path
