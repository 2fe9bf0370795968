"""Templates of strangers end, in bounded time and memory, with the limit that they broke."""

import pytest

from msm_jax.data import sandbox
from msm_jax.data.sandbox import writer
from msm_jax.errors import UserError

MESSAGES = [
    {"role": "user", "content": " Is it open? ", "tool_calls": [{"arguments": {"day": [1, 2]}}]},
    {"role": "assistant", "content": "Yes."},
] * 2
DOUBLE = "{% set x = X %}" * 40
WITHOUT_END = {
    "loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "loops that print": "{% for a in range(9999) %}{{ 'x' * 100000 }}{% endfor %}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "a recursive loop": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "a product": "{{ 'a' * 40000000000 }}",
    "a product of lists": "{{ ([1] * 40000000000) | length }}",
    "powers": "{{ 10 ** 999999999 }}",
    "squares": "{% set n = namespace(x=3) %}"
    "{% for i in range(9999) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "a width": "{{ '%9999999999d' % 1 }}",
    "a width that is given": "{{ '%*d' % (99999999999, 1) }}",
    "a width of format": "{{ '{:>9999999999}'.format(1) }}",
    "a width of format that is given": "{{ '{:>{}}'.format(1, 9999999999) }}",
    "a width of the filter": "{{ '%999999999d' | format(1) }}",
    "a method": "{{ 'a'.ljust(99999999999) }}",
    "a filter without use": "{{ 'a' | center(99999999999) }}",
    "an indent": "{{ messages | tojson(indent=99999999) }}",
    "an indent of many lines": "{{ ('\n' * 9000000) | indent(9000) }}",
    "tabs": "{{ '\t'.expandtabs(9999999999) }}",
    "replacements": "{% set x = 'a' * 30000 %}{{ x.replace('a', x).replace('a', x) }}",
    "the filter that replaces": "{% set x = 'a' * 30000 %}{{ x | replace('a', x) }}",
    "a translation": "{{ ('a' * 9000).translate({97: 'x' * 9000000}) }}",
    "a join": "{{ ''.join(['x' * 30000000] * 100000) }}",
    "the filter that joins": "{{ (['x' * 30000000] * 100000) | join }}",
    "one text in many places": "{{ (['x' * 30000000] * 100000) | string }}",
    "doubled text": "{% set x = 'a' * 16 %}" + DOUBLE.replace("X", "x ~ x"),
    "sums": "{% set x = 'a' * 16 %}" + DOUBLE.replace("X", "x + x"),
    "nested lists": "{% set x = [1] %}" + DOUBLE.replace("X", "[x, x]") + "{{ x }}",
    "nested dicts": "{% set x = [1] %}" + DOUBLE.replace("X", "dict(a=x, b=x)") + "{{ x }}",
    "nested namespaces": "{% set x = 1 %}" + DOUBLE.replace("X", "namespace(a=x, b=x)") + "{{ x }}",
    "blocks": "{% set n = namespace(a='x') %}{% for i in range(99) %}"
    "{% set n.a %}{{ n.a }}{{ n.a }}{% endset %}{% endfor %}",
    "invented text": "{{ lipsum(9) }}",
}


@pytest.mark.parametrize("name", WITHOUT_END)
def test_a_template_ends_with_the_limit_that_it_broke(name):
    with pytest.raises(UserError, match="chat template: ") as found:
        writer(WITHOUT_END[name], {})(MESSAGES, True)
    absent = {"a filter without use": "No filter named", "invented text": "'lipsum' is undefined"}
    limits = ("rounds of loops", "characters", "entries", "bits", "the most is", "recursion")
    expected = (absent[name],) if name in absent else limits
    assert any(limit in str(found.value) for limit in expected)


def test_a_template_ends_when_its_time_is_over(monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 0.0)
    with pytest.raises(UserError, match="takes more than 0 seconds"):
        writer("{% for a in range(999) %}{% endfor %}", {})(MESSAGES, True)


def test_every_rendering_has_the_limits_anew():
    write = writer("{% for a in range(9999) %}{% for b in range(60) %}{% endfor %}{% endfor %}", {})
    assert write(MESSAGES, True) == write(MESSAGES, True) == ""


def test_long_texts_and_large_numbers_are_no_reason_to_refuse():
    long = "word " * 200_000
    template = """{{ "a form of some length, id 999999999: %s" % messages[0].content }}
    {{ "in braces, id 999999999: {}".format(messages[0].content) }}
    {{ messages[0].content.find("x", 900000) }} {{ none | default(1234567, true) }}
    {{ messages[0].content.split(" ", 150000) | length }} {{ [1, 2] | sum(start=99999) }}"""
    found = writer(template, {})([{"role": "user", "content": long}], True)
    assert found.count(long) == 2
    assert found.split()[-4:] == ["-1", "1234567", "150001", "100002"]


def test_what_templates_use_means_what_it_means_in_jinja():
    import jinja2

    template = """{%- macro tag(x) -%}<{{ x }}>{%- endmacro -%}
    {%- set ns = namespace(seen=[], turn=0) -%}
    {%- for m in messages -%}
    {{ loop.index }}/{{ loop.length }} {{ m.role ~ ": " ~ m["content"] | trim + "\n" }}
    {%- set ns.seen = ns.seen + [m.role] -%}{%- set ns.turn = ns.turn + 1 -%}
    {%- if loop.last %}{{ tag(m.content) * 2 }}{% endif -%}
    {%- for call in m.tool_calls or [] %}{{ call.arguments.day | join(", ") }}{% endfor -%}
    {%- endfor -%}
    {%- for a, b in [(1, 2), (3, 4)] %}{{ a + b }}{% endfor -%}
    {%- set x, y = 1, "two" -%}{{ x }}{{ y }}{{ ns.seen | join("-") }}{{ ns.seen }}
    {{ "%s-%d" % ("a", 4) }} {{ "{} {:>5}".format(1, y) }} {{ "a,b".split(",") | last }}
    {{ messages[::-1] | map(attribute="role") | list }} {{ messages | length }}
    {{ messages | selectattr("role", "equalto", "user") | list | length }}
    {{ {"a": 1}.items() | list }}
    {{ "abc".replace("b", "xx") }} {{ "abc" | replace("b", "yy") }} {{ "abc"[1:] }}
    {{ range(3) | list }}
    {{ none | default("d", true) }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 5 }} {{ 1000000 + 1 }} {{ [] }}
    """
    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    assert writer(template, {})(MESSAGES, True) == plain.render(messages=MESSAGES)
