"""The reference of the documentation site, made from the code: settings, commands, HTTP, SQL and metrics, a page each.

Rules: what the code knows (names, types, bounds, defaults, parameters, columns) is read from the code. Only what a setting is
for comes from the README's table, the one place where that is written. Nothing here needs MkDocs: the tests read these pages too.
"""

from __future__ import annotations

import ast
import re
import types
import typing
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import click
from pydantic import SecretStr
from sqlalchemy import Connection, text

from cardsync import metrics
from cardsync.cli import main
from cardsync.settings import NAMES, Settings
from cardsync.web.openapi import document
from cardsync.web.ops import metrics as state

ROOT: Final = Path(__file__).resolve().parents[2]
HELP_WIDTH: Final = 100  # characters of a line of `--help`: what a code block shows without a scroll bar


def _cell(value: object) -> str:
    """One line that a table of Markdown can hold."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(str(value).split()))


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(one) for one in line) + " |" for line in lines) + "\n"


# Settings.


def settings() -> str:
    """Every setting: its variable, its type and bounds, its default, and what it is for."""
    purposes = _purposes()
    rows = [
        (f"`{name}`", _type_of(Settings.model_fields[field]), _default(field), purposes[name])
        for field, name in NAMES.items()
    ]
    return (
        "# Settings\n\nEnvironment variables. `NAME_FILE` names a file that holds the value of `NAME`. "
        "A wrong or missing setting stops a process at its start, in one line.\n\n"
        + _table(("variable", "type", "default", "what it is for"), rows)
    )


def _purposes() -> dict[str, str]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Settings\n")[1].split("\n## ")[0]
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| `")]
    return {name: cells[2].strip() for cells in lines for name in re.findall(r"`([A-Z_0-9]+)`", cells[0])}


def _type_of(field: Any) -> str:
    return _words(field.annotation, list(field.metadata))


def _words(annotation: Any, bounds: list[Any]) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _words(arguments[0], [part for one in arguments[1:] for part in getattr(one, "metadata", [one])])
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_words(one, bounds) for one in arguments if one is not type(None))
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin is tuple:
        return f"list of {_words(arguments[0], bounds)}, comma-separated"
    if origin is not None:
        return "JSON object"
    plain = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", Path: "path"}
    return " ".join([{**plain, SecretStr: "secret"}.get(annotation, annotation.__name__), *_bounds(bounds)])


def _bounds(bounds: list[Any]) -> list[str]:
    signs = {"gt": "&gt;", "ge": "≥", "lt": "&lt;", "le": "≤"}
    found = [f"{sign} {getattr(one, name)}" for one in bounds for name, sign in signs.items() if hasattr(one, name)]
    return [", ".join(found)] if found else []


def _default(field: str) -> str:
    default = Settings.model_fields[field].default
    if default is None or default in ((), {}):
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


# Commands.


class Command(NamedTuple):
    """A command with the words that call it."""

    path: str
    context: click.Context


def commands() -> Iterator[Command]:
    """Every command and group, each group before what it holds."""
    yield from _below(main, click.Context(main, info_name="cardsync", max_content_width=HELP_WIDTH))


def _below(command: click.Command, context: click.Context) -> Iterator[Command]:
    yield Command(context.command_path, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if (found := command.get_command(context, name)) is not None and not found.hidden:
                yield from _below(found, click.Context(found, info_name=name, parent=context))


def command_line() -> str:
    """The help of every command, as the command itself writes it."""
    parts = [
        f"{'##' if one.path.count(' ') < 2 else '###'} {one.path}\n\n```text\n{_help(one)}\n```\n" for one in commands()
    ]
    return "# Commands\n\nExit status: 0 done, 1 something failed, 2 wrong usage or settings.\n\n" + "\n".join(parts)


def _help(command: Command) -> str:
    context = command.context
    context.terminal_width = HELP_WIDTH
    return context.command.get_help(context)


# HTTP.


def http() -> str:
    """Every operation and every schema of the OpenAPI description."""
    description = document.build(version("cardsync"))
    parts = [
        "# HTTP",
        description["info"]["description"],
        "The same as OpenAPI 3.1 is at `/openapi.json` of any web process.",
    ]
    for tag in description["tags"]:
        parts.append(f"## {tag['name']}\n\n{tag['description']}")
        parts += [
            _operation(method, path, one, description)
            for path, methods in description["paths"].items()
            for method, one in methods.items()
            if tag["name"] in one.get("tags", ())
        ]
    parts.append("## Schemas")
    parts += [_schema(name, one) for name, one in sorted(description["components"]["schemas"].items())]
    return "\n\n".join(parts) + "\n"


def _operation(method: str, path: str, operation: dict[str, Any], description: dict[str, Any]) -> str:
    parts = [f"### {method.upper()} {path}", operation.get("summary", ""), operation.get("description", "")]
    parameters = [_resolved(one, description) for one in operation.get("parameters", ())]
    if parameters:
        rows = [(f"`{p['name']}`", p["in"], _json_type(p["schema"]), p.get("description", "")) for p in parameters]
        parts.append(_table(("parameter", "in", "type", ""), rows))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"Body, `{kind}`: {_json_type(content['schema'])}.")
    answers = [(status, _resolved(one, description)) for status, one in operation["responses"].items()]
    parts.append(_table(("status", "answer"), [(f"`{status}`", one["description"]) for status, one in answers]))
    return "\n\n".join(part for part in parts if part)


def _resolved(one: dict[str, Any], description: dict[str, Any]) -> Any:
    if "$ref" not in one:
        return one
    found: Any = description
    for key in one["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    return found


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (f"`{field}`", _json_type(one), "always" if field in required else "", one.get("description", ""))
        for field, one in schema.get("properties", {}).items()
    ]
    body = _table(("field", "type", "there", ""), rows) if rows else _json_type(schema)
    return f"### {name}\n\n{schema.get('description', '')}\n\n{body}"


def _json_type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if several := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " or ".join(_json_type(one) for one in several)
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{one}`" for one in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_json_type(schema.get('items', {}))}"
    kinds = schema.get("type", "any")
    kind = kinds if isinstance(kinds, str) else " or ".join(kinds)
    return f"{kind} ({schema['format']})" if "format" in schema else kind


# SQL.

_VIEWS: Final = text("""
    SELECT c.relname, obj_description(c.oid, 'pg_class') FROM pg_class c
    WHERE c.relnamespace = 'registry'::regnamespace AND c.relkind = 'v' ORDER BY c.relname
""")
_COLUMNS: Final = text("""
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), col_description(c.oid, a.attnum)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = 'registry'::regnamespace AND c.relkind = 'v' ORDER BY c.relname, a.attnum
""")
_FUNCTIONS: Final = text("""
    SELECT p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), obj_description(p.oid, 'pg_proc')
    FROM pg_proc p WHERE p.pronamespace = 'registry'::regnamespace AND p.prorettype <> 'trigger'::regtype
    ORDER BY p.proname, 2
""")


def sql(connection: Connection) -> str:
    """Every view and function of the schema ``registry``, with the comments that a migrated database holds."""
    columns = list(connection.execute(_COLUMNS))
    parts = ["# SQL", "The schema `registry`, which stays stable across releases. The tables behind it are private."]
    for view, comment in connection.execute(_VIEWS):
        rows = [(f"`{name}`", f"`{kind}`", said or "") for of, name, kind, said in columns if of == view]
        parts.append(f"## registry.{view}\n\n{comment or ''}\n\n{_table(('column', 'type', ''), rows)}")
    for name, arguments, result, comment in connection.execute(_FUNCTIONS):
        parts.append(f"## registry.{name}\n\n```sql\nregistry.{name}({arguments}) → {result}\n```\n\n{comment or ''}")
    return "\n\n".join(parts) + "\n"


# Metrics.


class Figure(NamedTuple):
    """A metric as ``/metrics`` shows it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def figures() -> list[Figure]:
    """What processes count (``cardsync.metrics``), and what is read on request (``cardsync.web.ops.metrics``)."""
    counted = [
        Figure(one._name + ("_total" if one._type == "counter" else ""), one._type, one._labelnames, one._documentation)
        for one in vars(metrics).values()
        if hasattr(one, "_labelnames")
    ]
    return sorted({one.name: one for one in [*counted, *_gauges_of_state()]}.values())


def _gauges_of_state() -> Iterator[Figure]:
    """The gauges by their makers' arguments: many are there only once there is something to show, so that none is asked for."""
    tree = ast.parse(Path(state.__file__).read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            arguments = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.Tuple) else []
            if len(arguments) > 2 and isinstance(name := arguments[0], ast.Constant) and _is_ours(name.value):
                label = arguments[2] if isinstance(node, ast.Call) and ast.unparse(node.func) == "_gauges" else None
                labels = (str(label.value),) if isinstance(label, ast.Constant) else ()
                if isinstance(node, ast.Tuple):
                    labels = ("endpoint",)
                yield Figure(str(name.value), "gauge", labels, _text(arguments[1], function))


def _is_ours(value: object) -> bool:
    return isinstance(value, str) and value.startswith("cardsync_")


def _text(node: ast.expr, function: ast.FunctionDef) -> str:
    """A text of the module, whose parts in braces are constants of the module or texts of the function."""
    names = dict(vars(state))
    for one in function.body:
        if isinstance(one, ast.Assign) and isinstance(one.value, ast.JoinedStr):
            names[ast.unparse(one.targets[0])] = _text(one.value, ast.FunctionDef(body=[]))
    return str(eval(ast.unparse(node), names))  # noqa: S307  (our own module's literal)


def metric_table() -> str:
    """Every metric with its kind and labels."""
    rows = [(f"`{one.name}`", one.kind, ", ".join(f"`{n}`" for n in one.labels), one.text) for one in figures()]
    return (
        "# Metrics\n\nAt `/metrics` of every process, in the format of Prometheus. "
        "A histogram has `_bucket`, `_sum` and `_count`.\n\n"
        + _table(("metric", "kind", "labels", "what it says"), rows)
    )
