"""The reference, made of the code: REST, WebSocket, command line, settings, Python. pages.py puts it on the site."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stmixer.service.schemas import Problem

Schema = dict[str, Any]
"""Of JSON Schema, as FastAPI and pydantic make it."""
_BOUNDS = {
    "minimum": "≥ {}", "maximum": "≤ {}", "exclusiveMinimum": "> {}", "exclusiveMaximum": "< {}",
    "minLength": "≥ {} characters", "maxLength": "≤ {} characters",
}  # fmt: skip
DOCS = "../docs"
"""The documents, from a page of the reference."""
_METHODS = ("get", "post", "put", "patch", "delete")


def pages() -> dict[str, str]:
    """Each page's path on the site, and its Markdown."""
    makers: dict[str, Callable[[], str]] = {
        "rest": rest, "websocket": websocket, "cli": cli, "settings": settings, "python": python,
    }  # fmt: skip
    return {f"reference/{name}.md": make() for name, make in makers.items()}


# -- REST


def rest() -> str:
    """Every route of the OpenAPI document, then every type in it."""
    from stmixer.service.api.app import openapi

    document = openapi()
    lines = ["# REST", "", f"Made of `/openapi.json`. What it means: [the protocol]({DOCS}/protocol.md#rest).", ""]
    for path, operations in document["paths"].items():
        for method in _METHODS:
            if method in operations:
                lines += _operation(f"{method.upper()} {path}", operations[method])
    lines += ["## Types", ""]
    types = document["components"]["schemas"] | {"Problem": Problem.model_json_schema()}
    for name, schema in sorted(types.items()):
        lines += [f"### {name}", "", *_prose(schema.get("description", "")), *_fields(schema)]
    return "\n".join(lines)


def _operation(title: str, operation: Schema) -> Iterator[str]:
    yield from (f"## {title}", "", *_prose(operation.get("description") or operation.get("summary", "")))
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [
            (
                f"`{each['name']}`", each["in"], _type(each["schema"]), _default(each["schema"]),
                each.get("description") or each["schema"].get("description", ""),
            )
            for each in parameters
        ]  # fmt: skip
        yield from _table(("Parameter", "In", "Type", "Default", ""), rows)
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        yield from (f"Body `{kind}`: {_type(media.get('schema', {}))}", "")
    rows = []
    for status, answer in operation["responses"].items():
        given = [f"`{kind}`: {_type(media.get('schema', {}))}" for kind, media in answer.get("content", {}).items()]
        rows.append((status, "; ".join(given), answer.get("description", "")))
    yield from _table(("Status", "Body", ""), rows)


# -- WebSocket


def websocket() -> str:
    """The messages of ``stmixer.v1``, in both directions."""
    from stmixer.service import stream_messages
    from stmixer.service.api import protocol
    from stmixer.service.schemas import Result, TrackChange

    lines = [
        "# WebSocket",
        "",
        f"`GET /v1/streams/ws`, subprotocol `{protocol.SUBPROTOCOL}`. Made of the messages' own types;",
    ]
    lines += [f"what they mean: [the protocol]({DOCS}/protocol.md#websocket). For programs: `/asyncapi.json`.", ""]
    lines += ["## From the client", ""]
    for message in (protocol.Start, protocol.Update, protocol.Flush, protocol.Stop):
        lines += _message(message.model_fields["type"].annotation.__args__[0], message)  # type: ignore[union-attr]
    lines += ["## From the service", ""]
    for told in stream_messages.TOLD:
        lines += _message(told.model_fields["type"].default, told)
    lines += [*_message("result", Result), *_message("track", TrackChange)]
    lines += ["## Streams that are pulled", "", "`GET /v1/streams/{id}/ws`. From the client, `start` and `stop`:", ""]
    lines += [*_message("start of who follows", protocol.Follow), "From the service, besides what is said above:", ""]
    for told in stream_messages.TOLD_TO_FOLLOWERS[:-1]:
        lines += _message(f"{told.model_fields['type'].default} to who follows", told)
    codes = {name: value for name, value in vars(protocol).items() if name.startswith("CLOSE_")}
    lines += ["## Close codes", ""]
    lines += _table(("Code", ""), [(str(code), _words(name.removeprefix("CLOSE_"))) for name, code in codes.items()])
    return "\n".join(lines)


def _message(name: str, model: type[BaseModel]) -> list[str]:
    return [f"### {name}", "", *_prose(inspect.getdoc(model) or ""), *_fields(model.model_json_schema())]


# -- the command line


def cli() -> str:
    """Every command of the three programs with its arguments and options."""
    from stmixer.commands import app as main
    from stmixer.model.cli import main as weights
    from stmixer.trainer.cli import main as train

    lines = ["# Command line", "", "What `--help` says.", ""]
    for program, app in (("stmixer", main), ("stmixer-weights", weights), ("stmixer-train", train)):
        lines += _command(program, typer.main.get_command(app))
    return "\n".join(lines)


def _command(name: str, command: Any) -> Iterator[str]:
    level = "###" if " " in name else "##"
    yield from (f"{level} {name}", "", *_prose(command.help or ""))
    rows = [_option(given) for given in command.params if "--help" not in given.opts and not given.hidden]
    if rows:
        yield from _table(("Given", "Type", "Default", ""), rows)
    for sub, below in sorted(getattr(command, "commands", {}).items()):
        yield from _command(f"{name} {sub}", below)


def _option(given: Any) -> tuple[str, str, str, str]:
    names = [*given.opts, *given.secondary_opts] if given.param_type_name == "option" else [given.name.upper()]
    default = given.default if isinstance(given.show_default, bool) else given.show_default
    plain = (
        "" if default is None or default is False or callable(default) else f"`{getattr(default, 'value', default)}`"
    )
    kind = f"`{_annotated(given.type_descriptor.annotation)}`"
    return ", ".join(f"`{each}`" for each in names), kind, plain, given.help or ""


# -- settings


def settings() -> str:
    """Every setting of ``stmixer serve``."""
    from stmixer.service.settings import Settings

    rows = [
        (f"`STMIXER_{name.upper()}`", _type(schema), _default(schema), _bounds(schema), _described(Settings, name))
        for name, schema in Settings.model_json_schema()["properties"].items()
    ]
    head = ["# Settings", "", "Variables of `stmixer serve`. Most are options of it too, which go over them:"]
    head += [f"[Operate the service]({DOCS}/operate.md#settings).", ""]
    return "\n".join([*head, *_table(("Variable", "Type", "Default", "Bounds", ""), rows)])


def _described(model: type[BaseModel], name: str) -> str:
    field: FieldInfo = model.model_fields[name]
    assert field.default is not PydanticUndefined, f"{name} has no default"
    return field.description or ""


# -- Python


def python() -> str:
    """What ``import stmixer`` offers, and the client."""
    import stmixer
    from stmixer.service import client

    lines = ["# Python", "", "What `import stmixer` offers, and the client of a service. A tour:"]
    lines += [f"the [README]({DOCS}/../README.md#in-python).", ""]
    for name in stmixer.__all__:
        if name != "__version__":
            lines += _object(f"stmixer.{name}", getattr(stmixer, name))
    lines += ["## stmixer.service.client", "", *_prose(inspect.getdoc(client) or "")]
    streams, answers = (client.LiveStream, client.AsyncLiveStream), (client.Lines, client.AsyncLines)
    for given in (client.Client, client.AsyncClient, *streams, *answers, client.ServiceError):
        lines += _object(given.__name__, given, level=3)
    return "\n".join(lines)


def _object(name: str, thing: Any, level: int = 2) -> Iterator[str]:
    yield from ("#" * level + f" {name}", "")
    fields = getattr(thing, "model_fields", None) or getattr(thing, "__dataclass_fields__", None)
    if not (inspect.isclass(thing) and fields):
        yield from ("```text", f"{name.rpartition('.')[2]}{_signature(thing)}", "```", "")
    yield from _prose(inspect.getdoc(thing) or "")
    if not inspect.isclass(thing):
        return
    if fields:
        yield from _table(("Field", "Type"), [(f"`{each}`", f"`{_annotated(note)}`") for each, note in _notes(thing)])
    for member, value in _members(thing):
        if isinstance(value, property):
            yield from (f"**`{member}`**: {_one_line(inspect.getdoc(value) or '')}", "")
            continue
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        yield from ("```text", f"{member}{_signature(function)}", "```", "", *_prose(inspect.getdoc(function) or ""))


def _notes(thing: Any) -> Iterator[tuple[str, Any]]:
    """Each field's annotation."""
    if hasattr(thing, "model_fields"):
        yield from ((name, field.annotation) for name, field in thing.model_fields.items())
    else:
        yield from ((name, field.type) for name, field in thing.__dataclass_fields__.items())


def _members(thing: type) -> Iterator[tuple[str, Any]]:
    """What a class of ours defines itself for its users, in its order, and takes from classes of ours."""
    seen: set[str] = set()
    for owner in thing.__mro__:
        if not owner.__module__.startswith("stmixer."):
            continue
        for name, value in vars(owner).items():
            known = name.startswith("_") or name in ("model_config", "model_post_init") or name in seen
            if not known and (callable(value) or isinstance(value, property | classmethod | staticmethod)):
                seen.add(name)
                yield name, value


def _signature(thing: Any) -> str:
    try:
        text = str(inspect.signature(thing))
    except ValueError:
        return "(…)"
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)
    return re.sub(r"(?<=\()(?:self|cls)(?:, |(?=\)))", "", text)


def _annotated(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)


# -- pieces


def _fields(schema: Schema) -> list[str]:
    required = schema.get("required", [])
    rows = [
        (
            f"`{name}`", _type(each), "required" if name in required else _default(each), _bounds(each),
            each.get("description", ""),
        )
        for name, each in schema.get("properties", {}).items()
    ]  # fmt: skip
    return list(_table(("Field", "Type", "Default", "Bounds", ""), rows)) if rows else []


def _type(schema: Schema) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "prefixItems" in schema:
        return f"[{', '.join(_type(each) for each in schema['prefixItems'])}]"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    if kind == "object" and set(schema.get("properties", ())) == set(Problem.model_fields):
        return "`Problem`"
    if kind == "object" and "properties" in schema:
        return "form of " + ", ".join(f"`{name}`" for name in schema["properties"])
    return f"{kind} ({schema['format']})" if "format" in schema else kind


def _default(schema: Schema) -> str:
    given = schema.get("default")
    return "" if given in (None, "") else f"`{given}`"


def _bounds(schema: Schema) -> str:
    """Of a number, alone or where it may be null."""
    for each in (schema, *schema.get("anyOf", ())):
        if found := [text.format(f"{each[key]:g}") for key, text in _BOUNDS.items() if key in each]:
            return ", ".join(found)
    return ""


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"
    yield ""


def _cell(text: str) -> str:
    """On one line; a bar outside code would begin another cell."""
    parts = re.split(r"(`[^`]*`)", _one_line(text))
    return "".join(part if part.startswith("`") else part.replace("|", r"\|") for part in parts)


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _prose(docstring: str) -> Iterator[str]:
    """A docstring as Markdown: its sections in bold, what they list as a list."""
    inside = False
    for line in docstring.replace("``", "`").splitlines():
        if re.fullmatch(r"(Args|Raises|Returns|Attributes):", line):
            inside = True
            yield from ("", f"**{line[:-1]}**", "")
        elif inside and (item := re.match(r"    (\w+(?:, \w+)*): (.*)", line)):
            yield f"- `{item[1]}`: {item[2]}"
        else:
            inside = inside and (not line or line.startswith(" "))
            yield line.strip() if inside else line
    yield ""
