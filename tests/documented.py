"""What the OpenAPI document says of an answer: whether its status, type, headers and body are as documented."""

from functools import cache

import orjson
from jsonschema import Draft202012Validator, FormatChecker

from router.api import document

DOCUMENT = document.compose()
OPERATIONS = {(method, path): operation for path, method, operation in document.list_operations(DOCUMENT)}


def resolve(said):
    """Follow a reference; what stands beside it wins."""
    if "$ref" not in said:
        return said
    found = DOCUMENT
    for step in said["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return {**resolve(found), **{name: value for name, value in said.items() if name != "$ref"}}


def find_breach(method, path, status, headers, body):
    """Say what of an answer the document does not say, None when all is documented.

    `path` is a path of the document, `body` the bytes or None where they were streamed. HEAD answers as GET.
    """
    where = f"{method} {path} {status}"
    operation = OPERATIONS.get(("get" if method == "HEAD" else method.lower(), path))
    if operation is None:
        return None  # an unknown path or method has no operation
    said = operation["responses"].get(str(status))
    if said is None:
        return f"{where} is not documented"
    answer = resolve(said)
    for name, header in answer.get("headers", {}).items():
        if resolve(header).get("required") and name not in headers:
            return f"{where} has no {name}"
        if name in headers:
            for problem in validator_of(header).iter_errors(headers[name]):
                return f"{where}: {name}: {problem.message}"
    if not body or method == "HEAD":
        return None
    content_type = headers.get("Content-Type", "").partition(";")[0].strip()
    media = answer.get("content", {}).get(content_type)
    if media is None:
        kinds = [one for one in answer.get("content", {}) if one.endswith("/*")]
        if not any(content_type.startswith(one[:-1]) for one in kinds):
            return f"{where}: {content_type!r} is not documented"
    elif content_type == "application/json":
        for problem in _body_validator(method.lower(), path, str(status)).iter_errors(orjson.loads(body)):
            at = ".".join(str(step) for step in problem.absolute_path)
            return f"{where}: {at or 'the body'}: {problem.message[:300]}"
    return None


def validator_of(said):
    """Make the validator of a header or parameter."""
    return _validator(orjson.dumps(resolve(resolve(said)["schema"])))


def validator_of_schema(schema):
    """Make a validator of a schema that may refer to others of the document."""
    return _validator(orjson.dumps(schema))


@cache
def _body_validator(method, path, status):
    answer = resolve(OPERATIONS[method, path]["responses"][status])
    return _validator(orjson.dumps(answer["content"]["application/json"]["schema"]))


@cache
def _validator(text):
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": DOCUMENT["components"]}
    return Draft202012Validator({**orjson.loads(text), **whole}, format_checker=FormatChecker())
