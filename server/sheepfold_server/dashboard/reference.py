"""The page at /docs: the OpenAPI description as plain HTML, with nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/page.css"></head>
<body class="reference"><header><h1>{title}</h1><p>{summary} <a href="/">Dashboard</a> ·
<a href="/openapi.json">openapi.json</a></p></header>
<main>{operations}<h2>Answers</h2>{schemas}</main></body></html>
"""


def reference_page(openapi: dict[str, Any]) -> str:
    """Every operation with its parameters and answers, then every schema with its fields."""
    info = openapi["info"]
    schemas = openapi.get("components", {}).get("schemas", {})
    return _PAGE.format(
        title=escape(info["title"]),
        summary=escape(info.get("summary", "")),
        operations="".join(_operations(openapi["paths"])),
        schemas="".join(_schema(name, schema) for name, schema in sorted(schemas.items())),
    )


def _operations(paths: dict[str, Any]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield f"<section><h3><code>{escape(method.upper())} {escape(path)}</code></h3>"
            yield f"<p>{escape(operation.get('summary', ''))}</p>"
            if operation.get("parameters"):
                rows = "".join(_parameter(parameter) for parameter in operation["parameters"])
                yield _table(("parameter", "where", "type", "meaning"), rows)
            answers = "".join(_answer(code, answer) for code, answer in operation["responses"].items())
            yield f"<ul>{answers}</ul></section>"


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    default = f" (default {schema['default']})" if schema.get("default") is not None else ""
    meaning = parameter.get("description", "") + default
    return _row(parameter["name"], parameter["in"], _type(schema), escape(meaning))


def _answer(code: str, response: dict[str, Any]) -> str:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    shown = f": {_type(schema)}" if schema else ""
    return f"<li><code>{escape(code)}</code> {escape(response.get('description', ''))}{shown}</li>"


def _schema(name: str, schema: dict[str, Any]) -> str:
    rows = "".join(
        _row(field, _type(described), escape(described.get("description", "")))
        for field, described in schema.get("properties", {}).items()
    )
    heading = (
        f'<section id="{escape(name)}"><h3>{escape(name)}</h3><p>{escape(schema.get("description", ""))}</p>'
    )
    return heading + _table(("field", "type", "meaning"), rows) + "</section>"


def _type(schema: dict[str, Any]) -> str:
    """A schema's type as HTML; a reference becomes a link within the page."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[1])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = [
        f"{word} {schema[key]}"
        for key, word in (("minimum", "at least"), ("maximum", "at most"))
        if key in schema
    ]
    return escape(", ".join([str(schema.get("type", "any")), *limits]))


def _table(head: tuple[str, ...], rows: str) -> str:
    cells = "".join(f"<th>{name}</th>" for name in head)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>'


def _row(name: str, *cells: str) -> str:
    """A table row; `cells` are HTML already."""
    return f"<tr><td><code>{escape(name)}</code></td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
