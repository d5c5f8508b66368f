"""The readable page of the OpenAPI document: one HTML text without scripts, images or anything from elsewhere.

It shows each operation with its parameters, fields, defaults, units and examples, and each schema once. It knows the
shapes of OpenAPI and nothing of what this document says; `document` hands it the joined one. Floor 3.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2563eb; }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; display: grid; grid-template-columns: 17rem minmax(0, 1fr); }
nav { position: sticky; top: 0; height: 100vh; overflow: auto; padding: 1rem; font-size: 13px;
  border-right: 1px solid var(--line); }
nav b { display: block; margin-top: .8rem; text-transform: capitalize; }
nav a { display: block; padding: .1rem 0; color: inherit; text-decoration: none; overflow-wrap: anywhere; }
nav a:hover { color: var(--accent); }
main { padding: 1rem 2rem 6rem; max-width: 72rem; }
h2 { margin: 3rem 0 .5rem; text-transform: capitalize; border-bottom: 2px solid var(--line); }
section { margin: 2rem 0; padding-top: .5rem; border-top: 1px solid var(--line); }
h3 { margin: .4rem 0; font-size: 1.1rem; }
h4 { margin: 1rem 0 .3rem; font-size: .85rem; opacity: .75; }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
code { background: var(--soft); padding: 0 .2em; border-radius: 3px; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .6rem .8rem; border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.method { display: inline-block; min-width: 4.2rem; padding: 0 .4rem; border-radius: 4px; color: #fff; background: #555;
  font: 600 12px/1.7 ui-monospace, monospace; text-align: center; }
.get { background: #15803d; } .post { background: #1d4ed8; } .delete { background: #b91c1c; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
td, th { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); }
th { font-size: 12px; opacity: .7; font-weight: 600; }
td:first-child { width: 24%; } td:nth-child(2) { width: 20%; }
.need { color: #b91c1c; font-size: 12px; } .small { font-size: 12.5px; opacity: .75; }
@media (max-width: 50rem) { body { display: block; } nav { position: static; height: auto; } main { padding: 1rem; } }
"""
_DIGEST: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser may do with the page: read it, in our own style."""
BOUNDS: Final = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
    ("minProperties", "maxProperties", " pairs"),
)
DEEPEST: Final = 3  # levels of fields that a table of a request shows


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: a parameter or a field."""

    name: str
    schema: Mapping[str, Any]
    description: str
    required: bool
    example: Any
    place: str = ""


def render(document: Mapping[str, Any]) -> str:
    """Render the page of an OpenAPI document."""
    return _Page(document).render()


class _Page:
    """The document, and what is looked up in it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    def render(self) -> str:
        info = self.document["info"]
        tags = self.document["tags"]
        body = "".join(self._tag(tag) for tag in tags) + self._schemas()
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(info["title"])} API</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
            f'<nav><a href="#top"><b>{_text(info["title"])} API</b></a><a href="/openapi.json">openapi.json</a>'
            f"{''.join(self._menu(tag) for tag in tags)}<b>Schemas</b>{self._schema_menu()}</nav>"
            f'<main id="top"><h1>{_text(info["title"])} API</h1><p>{_prose(info["summary"])}</p>'
            f"{_blocks(info['description'])}{body}</main></body></html>\n"
        )

    # -- operations ---------------------------------------------------------------------------------------------

    def _operations(self, tag: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        for path, item in self.document["paths"].items():
            for method, operation in item.items():
                if tag in operation.get("tags", ()):
                    yield path, method, operation

    def _menu(self, tag: Mapping[str, Any]) -> str:
        links = (
            f'<a href="#{operation["operationId"]}">{_text(operation["summary"])}</a>'
            for _path, _method, operation in self._operations(tag["name"])
        )
        return f"<b>{_text(tag['name'])}</b>{''.join(links)}"

    def _tag(self, tag: Mapping[str, Any]) -> str:
        shown = "".join(self._operation(*one) for one in self._operations(tag["name"]))
        return f"<h2>{_text(tag['name'])}</h2><p>{_prose(tag['description'])}</p>{shown}"

    def _operation(self, path: str, method: str, operation: Mapping[str, Any]) -> str:
        open_to_all = " <span class=small>No key is needed.</span>" if operation.get("security") == [] else ""
        parameters = [self._parameter(one) for one in operation.get("parameters", ())]
        return (
            f'<section id="{operation["operationId"]}"><h3><span class="method {method}">{method.upper()}</span> '
            f"<code>{_text(path)}</code> {_text(operation['summary'])}</h3>"
            f"<p>{_prose(operation['description'])}{open_to_all}</p>"
            + (f"<h4>Parameters</h4>{_table(parameters)}" if parameters else "")
            + self._body(operation.get("requestBody"))
            + self._answers(operation["responses"])
            + "</section>"
        )

    def _parameter(self, said: Mapping[str, Any]) -> Row:
        one = self.resolve(said)
        schema = self.resolve(one["schema"])
        required = one.get("required", False)
        return Row(one["name"], schema, one["description"], required, one.get("example"), one["in"])

    def _body(self, said: Mapping[str, Any] | None) -> str:
        if said is None:
            return ""
        shown = [f"<h4>Body</h4><p>{_prose(said.get('description', ''))}</p>"]
        for content_type, media in said["content"].items():
            rows = list(self._fields(media["schema"], "", DEEPEST))
            example = f"<pre>{_text(_json(media['example']))}</pre>" if "example" in media else ""
            shown.append(
                f"<p class=small><code>{_text(content_type)}</code></p>{example}{_table(rows) if rows else ''}"
            )
        return "".join(shown)

    def _answers(self, responses: Mapping[str, Any]) -> str:
        lines = []
        for status, said in responses.items():
            one = self.resolve(said)
            bodies = "; ".join(
                f"<code>{_text(content_type)}</code> {self._kind(media['schema'])}"
                for content_type, media in one.get("content", {}).items()
            )
            # Errors have the same headers everywhere; they stand in the JSON.
            named = one.get("headers", {}) if status < "400" else ()
            headers = ", ".join(f"<code>{_text(name)}</code>" for name in named)
            lines.append(
                f"<tr><td><b>{status}</b></td><td>{bodies}</td><td>{_prose(one['description'])}"
                f"<div class=small>{headers}</div></td></tr>"
            )
        return (
            "<h4>Answers</h4><table><thead><tr><th>Status</th><th>Body</th><th>When, and its headers</th></tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table>"
        )

    # -- schemas ------------------------------------------------------------------------------------------------

    def _schema_menu(self) -> str:
        return "".join(
            f'<a href="#schema-{name}">{name}</a>' for name in sorted(self.document["components"]["schemas"])
        )

    def _schemas(self) -> str:
        shown = []
        for name, schema in sorted(self.document["components"]["schemas"].items()):
            rows = list(self._fields(schema, "", DEEPEST))
            words = "" if rows else f"<p><code>{_text(_type_of(schema))}</code>{_limits(schema)}</p>"
            shown.append(
                f'<section id="schema-{name}"><h3>{name}</h3><p>{_prose(schema.get("description", ""))}</p>{words}'
                f"{_table(rows) if rows else ''}</section>"
            )
        return f"<h2>Schemas</h2>{''.join(shown)}"

    def _kind(self, schema: Mapping[str, Any]) -> str:
        """Name what a body is, with a link to its schema."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return f'<a href="#schema-{name}">{name}</a>'
        if "anyOf" in schema:
            return " or ".join(self._kind(one) for one in schema["anyOf"])
        return _text(_type_of(schema))

    def _fields(self, schema: Mapping[str, Any], prefix: str, depth: int) -> Iterator[Row]:
        """Yield the fields of an object, those of the objects in it after their own line, `allOf` made flat."""
        whole = self.resolve(schema)
        needed = set(whole.get("required", ())) | {
            name for part in whole.get("allOf", ()) for name in self.resolve(part).get("required", ())
        }
        for part in (whole, *whole.get("allOf", ())):
            if part is not whole:
                yield from (
                    Row(row.name, row.schema, row.description, row.required or row.name in needed, row.example)
                    for row in self._fields(part, prefix, depth)
                )
                continue
            for name, said in part.get("properties", {}).items():
                field = self.resolve(said)
                examples = field.get("examples", [None])
                yield Row(prefix + name, field, field.get("description", ""), name in needed, examples[0])
                if depth > 1 and field.get("type") == "object":
                    yield from self._fields(field, f"{prefix}{name}.", depth - 1)

    def resolve(self, said: Mapping[str, Any]) -> Mapping[str, Any]:
        """Follow a reference; what stands beside it wins."""
        if "$ref" not in said:
            return said
        found: Any = self.document
        for step in said["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        beside = {name: value for name, value in said.items() if name != "$ref"}
        return {**self.resolve(found), **beside}


# -- parts ----------------------------------------------------------------------------------------------------------


def _table(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        need = " <span class=need>required</span>" if row.required else ""
        place = f" <span class=small>in {row.place}</span>" if row.place else ""
        example = (
            "" if row.example is None else f"<div class=small>Example: <code>{_text(_json(row.example))}</code></div>"
        )
        lines.append(
            f"<tr><td><code>{_text(row.name)}</code>{need}{place}</td><td><code>{_text(_type_of(row.schema))}</code>"
            f"{_limits(row.schema)}</td><td>{_prose(row.description)}{example}</td></tr>"
        )
    head = "<thead><tr><th>Name</th><th>Type, unit, bounds, default</th><th>What it is</th></tr></thead>"
    return f"<table>{head}<tbody>{''.join(lines)}</tbody></table>"


def _type_of(schema: Mapping[str, Any]) -> str:
    if "const" in schema:
        return str(_json(schema["const"]))
    said = schema.get("type")
    if said is None:
        choices = schema.get("anyOf") or schema.get("oneOf") or ()
        named = [one["$ref"].rpartition("/")[2] if "$ref" in one else _type_of(one) for one in choices]
        return " or ".join(named) or "any"
    words = [said] if isinstance(said, str) else list(said)
    if "array" in words and isinstance(schema.get("items"), Mapping):
        items = schema["items"]
        inner = items["$ref"].rpartition("/")[2] if "$ref" in items else _type_of(items)
        words[words.index("array")] = f"array of {inner}"
    return " or ".join(words)


def _limits(schema: Mapping[str, Any]) -> str:
    """Say unit, bounds, words and default of a value."""
    said = []
    if "x-unit" in schema:
        said.append(f"in {schema['x-unit']}")
    if "enum" in schema:
        said.append(", ".join(str(word) for word in schema["enum"]))
    for low, high, what in BOUNDS:
        least, most = schema.get(low), schema.get(high)
        if least is not None and most is not None:
            said.append(f"{least} to {most}{what}")
        elif least is not None or most is not None:
            said.append(f"at least {least}{what}" if most is None else f"at most {most}{what}")
    if "exclusiveMinimum" in schema:
        said.append(f"more than {schema['exclusiveMinimum']}")
    if "format" in schema:
        said.append(schema["format"])
    shown = f'<div class="small">{_text("; ".join(said))}</div>' if said else ""
    if "default" in schema:
        shown += f'<div class="small">default <code>{_text(_json(schema["default"]))}</code></div>'
    return shown


def _blocks(text: str) -> str:
    """Paragraphs and lists of a description."""
    shown = []
    for block in text.strip().split("\n\n"):
        if block.lstrip().startswith("* "):
            items = re.split(r"\n?^\s*\* ", block, flags=re.MULTILINE)[1:]
            shown.append(f"<ul>{''.join(f'<li>{_prose(item)}</li>' for item in items)}</ul>")
        else:
            shown.append(f"<p>{_prose(block)}</p>")
    return "".join(shown)


def _prose(text: str) -> str:
    """Words with `code` and **weight**."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", marked)


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
