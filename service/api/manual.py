"""``/docs``: the routes for people, made of the OpenAPI document; one page of HTML, without a script."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

Schema = dict[str, Any]
"""Of JSON Schema, as FastAPI and pydantic make it."""
_METHODS = ("get", "post", "put", "patch", "delete")
_BOUNDS = {
    "minimum": "≥ {}", "maximum": "≤ {}", "exclusiveMinimum": "> {}", "exclusiveMaximum": "< {}",
    "minLength": "≥ {} characters", "maxLength": "≤ {} characters",
}  # fmt: skip


def manual(document: Schema) -> str:
    """The page: every route with what it takes and answers, then every type.

    Args:
        document: what ``/openapi.json`` answers with.
    """
    operations = [
        (f"{method.upper()} {path}", methods[method])
        for path, methods in document["paths"].items()
        for method in _METHODS
        if method in methods
    ]
    types = sorted(document["components"]["schemas"].items())
    contents = "".join(f'<li><a href="#{_anchor(name)}"><code>{escape(name)}</code></a></li>' for name, _ in operations)
    sections = [_operation(name, operation) for name, operation in operations]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>stmixer: the API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="stylesheet" href="web/docs.css"></head><body><main><h1>stmixer: the API</h1>'
        "<p>Who does what, where and when in a video. For programs: "
        '<a href="openapi.json">openapi.json</a>, and <a href="asyncapi.json">asyncapi.json</a> for what WebSockets '
        'say. To try it: <a href="./">the page</a>.</p>'
        f"<nav aria-label='Routes'><ul>{contents}</ul></nav>{''.join(sections)}<h2>Types</h2>"
        f"{''.join(_described_type(name, schema) for name, schema in types)}</main></body></html>\n"
    )


def _operation(name: str, operation: Schema) -> str:
    parts = [f'<section><h2 id="{_anchor(name)}"><code>{escape(name)}</code></h2>']
    parts.append(_prose(operation.get("description") or operation.get("summary", "")))
    if parameters := operation.get("parameters"):
        rows = [
            (f"<code>{escape(each['name'])}</code>", escape(each["in"]), _type(each["schema"]),
             _default(each["schema"]), _line(each.get("description") or each["schema"].get("description", "")))
            for each in parameters
        ]  # fmt: skip
        parts.append(_table(("Parameter", "in", "type", "default", ""), rows))
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body <code>{escape(kind)}</code>: {_type(media.get('schema', {}))}</p>")
    answers = [
        (escape(status), _bodies(answer.get("content", {})), _line(answer.get("description", "")))
        for status, answer in operation["responses"].items()
    ]
    return "".join([*parts, _table(("Status", "body", ""), answers), "</section>"])


def _bodies(content: Schema) -> str:
    """What an answer may be, by its kind."""
    return "<br>".join(f"<code>{escape(kind)}</code> {_type(each.get('schema', {}))}" for kind, each in content.items())


def _described_type(name: str, schema: Schema) -> str:
    wanted = set(schema.get("required", ()))
    rows = [
        (f"<code>{escape(field)}</code>", _type(each), "" if field in wanted else _default(each) or "optional",
         _line(each.get("description", "")))
        for field, each in schema.get("properties", {}).items()
    ]  # fmt: skip
    head = f'<section><h3 id="{_anchor(name)}">{escape(name)}</h3>{_prose(schema.get("description", ""))}'
    return f"{head}{_table(('Field', 'type', 'default', ''), rows) if rows else _type(schema)}</section>"


def _type(schema: Schema) -> str:
    """In words, with the bounds; a type of the document as a link to it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_anchor(name)}">{escape(name)}</a>'
    if "const" in schema:
        return f"<code>{escape(repr(schema['const']))}</code>"
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(_type(each) for each in schema[key])
    kind = schema.get("type", "")
    if kind == "array":
        return f"list of {_type(schema.get('items', {})) or 'anything'}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    bounds = [text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema]
    return escape(", ".join([str(schema.get("format") or kind), *bounds]).strip(", "))


def _default(schema: Schema) -> str:
    return f"<code>{escape(str(schema['default']))}</code>" if schema.get("default") is not None else ""


def _prose(text: str) -> str:
    return "".join(f"<p>{_line(part)}</p>" for part in text.split("\n\n") if part.strip())


def _line(text: str) -> str:
    """Escaped, on one line, with what stands in backticks as code."""
    return re.sub(r"``?([^`]+)``?", r"<code>\1</code>", escape(" ".join(text.split()), quote=False))


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def cells(row: Iterable[str], kind: str) -> Iterator[str]:
        yield from (f"<{kind}>{cell}</{kind}>" for cell in row)

    body = "".join(f"<tr>{''.join(cells(row, 'td'))}</tr>" for row in rows)
    return f'<div class="wide" tabindex="0"><table><tr>{"".join(cells(heads, "th"))}</tr>{body}</table></div>'


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
