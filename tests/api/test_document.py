"""The OpenAPI document: valid, complete, of the same mind as the code, and served as JSON and as a page."""

from html.parser import HTMLParser

import orjson
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from router.api import bodies, tasks, uploads, usage, views
from router.outcome import Billed
from router.policy import errors
from router.policy.fit import Reason
from router.policy.health import CircuitState
from router.policy.rules import Defaults
from router.provider import Kind
from router.task import Preferences, Priority, State
from tests.api.house import open_house
from tests.daemons import run_command
from tests.documented import DOCUMENT, OPERATIONS, resolve, validator_of_schema

SCHEMAS = DOCUMENT["components"]["schemas"]


def list_fields():
    """Every field of every schema and body, and every parameter: where it stands, and its schema."""
    found = []

    def walk(value, where):
        if isinstance(value, dict):
            for name, field in value.get("properties", {}).items() if isinstance(value.get("properties"), dict) else ():
                found.append((f"{where}.{name}", resolve(field)))
            for name, inner in value.items():
                walk(inner, f"{where}.{name}" if name not in {"properties", "schema", "content"} else where)
        elif isinstance(value, list):
            for at, inner in enumerate(value):
                walk(inner, f"{where}[{at}]")

    walk(SCHEMAS, "")
    walk(DOCUMENT["paths"], "")
    for (method, path), operation in OPERATIONS.items():
        for said in operation.get("parameters", ()):
            one = resolve(said)
            field = {**resolve(one["schema"]), "description": one.get("description"), "examples": [one.get("example")]}
            found.append((f"{method} {path} {one['name']}", field))
    return found


FIELDS = list_fields()


def field_of(schema, name):
    """A field of a schema, also where it stands in a part of it."""
    whole = resolve({"$ref": f"#/components/schemas/{schema}"})
    for part in (whole, *(resolve(one) for one in whole.get("allOf", ()))):
        if name in part.get("properties", {}):
            return resolve(part["properties"][name])
    raise AssertionError(f"{schema} has no {name}")


def test_the_document_is_valid_openapi_3_1():
    problems = [
        f"{problem.message} at {list(problem.absolute_path)}"
        for problem in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()
    ]
    assert problems == []
    assert DOCUMENT["openapi"].startswith("3.1")


async def test_every_route_is_documented_and_every_documented_route_is_there():
    async with open_house() as house:
        routes = {
            (route.method.lower(), route.resource.canonical)
            for route in house.client.app.router.routes()
            if route.method not in {"HEAD", "OPTIONS", "*"}
        }
    assert routes - set(OPERATIONS) == set()
    assert set(OPERATIONS) == routes


def test_every_operation_has_a_name_of_its_own_a_summary_and_a_known_tag():
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    assert len(set(names)) == len(names)
    for operation in OPERATIONS.values():
        assert operation["summary"], operation["operationId"]
        assert operation["description"], operation["operationId"]
        assert set(operation["tags"]) <= tags, operation["operationId"]


def test_every_field_and_parameter_has_a_description_and_an_example_and_every_number_a_unit():
    lacking = []
    for where, field in FIELDS:
        kinds = field.get("type", [])
        kinds = {kinds} if isinstance(kinds, str) else set(kinds)
        if not field.get("description"):
            lacking.append(f"{where}: description")
        if not field.get("examples"):
            lacking.append(f"{where}: example")
        if kinds & {"integer", "number"} and not field.get("x-unit"):
            lacking.append(f"{where}: unit")
    assert len(FIELDS) > 300
    assert lacking == []


def test_every_example_is_an_example_of_its_field():
    wrong = []
    for where, field in FIELDS:
        for example in field.get("examples", ()):
            wrong += [f"{where}: {one.message}" for one in validator_of_schema(field).iter_errors(example)]
    for (method, path), operation in OPERATIONS.items():
        for content_type, media in operation.get("requestBody", {}).get("content", {}).items():
            if content_type == "application/json":
                problems = validator_of_schema(media["schema"]).iter_errors(media["example"])
                wrong += [f"{method} {path}: {one.message}" for one in problems]
    assert "\n".join(wrong) == ""


def test_defaults_are_those_of_the_code():
    preferences, defaults = Preferences(), Defaults()
    listing = {
        resolve(one)["name"]: resolve(resolve(one)["schema"]) for one in OPERATIONS["get", "/v1/tasks"]["parameters"]
    }
    spending = {resolve(one)["name"]: resolve(one)["schema"] for one in OPERATIONS["get", "/v1/usage"]["parameters"]}
    assert field_of("Preferences", "order")["default"] == list(preferences.order)
    assert field_of("Preferences", "only")["default"] == list(preferences.only)
    assert field_of("Preferences", "ignore")["default"] == list(preferences.ignore)
    assert field_of("Preferences", "allow_fallbacks")["default"] == preferences.allow_fallbacks
    assert field_of("Preferences", "require_parameters")["default"] == preferences.require_parameters
    assert listing["limit"]["default"] == tasks.LIMIT_USUAL
    assert listing["limit"]["maximum"] == tasks.LIMIT_MAX
    assert spending["group_by"]["default"] == ",".join(usage.GROUPS)
    assert f"({defaults.sync_wait_s:g} s)" in OPERATIONS["post", "/v1/images/generations"]["description"]
    assert field_of("NewImages", "n")["maximum"] == bodies.N_MAX
    assert SCHEMAS["Prompt"]["maxLength"] == bodies.PROMPT_MAX_CHARS
    assert field_of("NewImages", "metadata")["maxProperties"] == bodies.METADATA_MAX
    assert field_of("NewImages", "timeout")["maximum"] == bodies.SECONDS_MAX
    assert SCHEMAS["FileRefs"]["anyOf"][1]["maxItems"] == uploads.FILES_MAX


@pytest.mark.parametrize(
    ("schema", "field", "words"),
    [
        ("NewTask", "kind", [one.value for one in Kind]),
        ("NewTask", "priority", [one.word for one in Priority]),
        ("Task", "status", [one.value for one in State]),
        ("Task", "priority", [one.word for one in Priority]),
        ("Attempt", "billing", [one.value for one in Billed]),
        ("Exclusion", "reason", [one.value for one in Reason]),
        ("Target", "state", [one.value for one in CircuitState]),
        *(("NewImages", name, list(words)) for name, words in bodies.WORDS.items()),
    ],
)
def test_words_are_those_of_the_code(schema, field, words):
    assert sorted(field_of(schema, field)["enum"]) == sorted(words)


def test_the_errors_are_those_of_the_code():
    assert sorted(SCHEMAS["ErrorType"]["enum"]) == sorted(errors.STATUS)
    assert resolve(DOCUMENT["components"]["parameters"]["View"]["schema"])["enum"] == list(views.DIALECTS)
    for (method, path), operation in OPERATIONS.items():
        known = {str(status) for status in (*errors.STATUS.values(), errors.IDEMPOTENCY_MISMATCH_STATUS, 416)}
        refusals = {status for status in operation["responses"] if status >= "400"}
        assert refusals <= known, f"{method} {path}"
        needs_a_key = operation.get("security") != []
        assert not needs_a_key or "401" in refusals, f"{method} {path}"


async def test_the_document_is_served_once_and_known_by_its_version():
    async with open_house(auth=True) as house:
        reply = await house.client.get("/openapi.json")
        assert reply.status == 200
        assert reply.content_type == "application/json"
        assert orjson.loads(await reply.read()) == DOCUMENT
        again = await house.client.get("/openapi.json", headers={"If-None-Match": reply.headers["ETag"]})
        assert again.status == 304
        assert await again.read() == b""
        other = await house.client.get("/openapi.json", headers={"If-None-Match": '"another"'})
        assert other.status == 200


class Page(HTMLParser):
    """What a page holds: its tags, its ids, the addresses it names and its words."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.words = set(), set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        said = dict(attrs)
        self.tags.add(tag)
        self.ids.add(said.get("id"))
        self.links += [said[name] for name in ("href", "src") if name in said]
        assert not any(name.startswith("on") or name == "style" for name in said)

    def handle_data(self, data):
        self.words.append(data)


async def test_the_page_shows_every_operation_and_field_and_needs_nothing_from_elsewhere():
    async with open_house(auth=True) as house:
        reply = await house.client.get("/docs")
        assert reply.status == 200
        assert reply.content_type == "text/html"
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
        page = Page(await reply.text())
        again = await house.client.get("/docs", headers={"If-None-Match": reply.headers["ETag"]})
        assert again.status == 304
    assert page.tags.isdisjoint({"script", "img", "link", "iframe", "form", "object"})
    assert all(link.startswith("#") or link == "/openapi.json" for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert {operation["operationId"] for operation in OPERATIONS.values()} <= page.ids
    words = set(page.words)
    assert {path for _method, path in OPERATIONS} <= words
    shown = {name for schema in SCHEMAS.values() for name in schema.get("properties", {})}
    assert shown <= {word.rpartition(".")[2] for word in words}


async def test_the_command_prints_the_document(tmp_path):
    code, out, err = await run_command(tmp_path, "schema", "--openapi")
    assert (code, err) == (0, "")
    assert orjson.loads(out) == DOCUMENT
