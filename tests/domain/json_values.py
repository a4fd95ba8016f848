"""Strategies for JSON as it comes from outside: whatever a model, a tool or a caller may send."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from lash_tasks.domain.codec import JsonObject, JsonValue

texts = st.one_of(
    st.sampled_from(["", " ", "\n\n", "a\x00b", "\x85", "é", "😀", "\u2028", "\ufffd"]), st.text(max_size=20)
)
"""Valid Unicode."""

broken_texts = st.one_of(texts, st.sampled_from(["\ud800", "a\udfffb", "\udc80\ud83d"]))
"""Text that may hold lone surrogates."""


def json_values(strings: st.SearchStrategy[str] = texts) -> st.SearchStrategy[JsonValue]:
    scalars: st.SearchStrategy[JsonValue] = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([10**30, -(10**300), 0.1, 1.0, -0.0, 1e308]),
        st.floats(allow_nan=False, allow_infinity=False),
        strings,
    )
    return st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(strings, inner, max_size=4)),
        max_leaves=12,
    )


def json_objects(strings: st.SearchStrategy[str] = texts) -> st.SearchStrategy[JsonObject]:
    return st.dictionaries(strings, json_values(strings), max_size=4)


def nested(depth: int) -> str:
    """An object whose value is nested so that the whole is `depth` deep."""
    return '{"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


garbage = [
    "",
    " ",
    "{",
    "}",
    "[]",
    "null",
    '"text"',
    "12",
    "{'a': 1}",
    '{"a": 1,}',
    '{"a": 1} {"b": 2}',
    '{"a": NaN}',
    '{"a": -Infinity}',
    '{"a": 1e999}',
    '{"a": ' + "9" * 5000 + "}",
    '{"a": ' + "9" * 4000 + "}",
    '{"a": 1, "a": 2}',
    '{"a": "\\ud800", "\\udfff": "\\u0000"}',
    '{"\\ud800": 1, "\\udfff": 2}',
    '{"a": "\x00"}',
    nested(100),
    nested(101),
    nested(400),
    nested(950),
    nested(100_000),
    "[" * 100_000,
]
"""Arguments that models really write, and worse."""

arguments = st.one_of(
    st.sampled_from(garbage),
    texts,
    json_objects(broken_texts).map(json.dumps),
    json_objects(texts).map(lambda value: json.dumps(value, ensure_ascii=False, indent=1)),
    json_values().map(json.dumps),
)
"""A tool call's arguments as a model may write them."""
