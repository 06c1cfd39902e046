"""The answers for programs, and the OpenAPI document that describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import __version__
from .answers import Answer, Hit
from .asking import MOST_EXAMPLES, PARAMETERS, Example, quoted

SCHEMA = "fewvit.search/1"


def described(answer: Answer) -> dict[str, Any]:
    """An answer as JSON's objects."""
    asked, loaded = answer.asked, answer.loaded
    return {
        "schema": SCHEMA,
        "index": {"version": loaded.version, "images": len(loaded.index), "backbone": loaded.index.manifest.backbone},
        "permalink": f"/?{asked.query}",
        "examples": [described_example(example) for example in asked.examples],
        "results": [described_hit(hit) for hit in answer.hits],
        "next": f"/api/search?{asked.but(page=asked.page + 1).query}" if answer.has_more else None,
        "seconds": round(answer.seconds, 4),
    }


def described_example(example: Example) -> dict[str, Any]:
    """An example: its id, or the token of an upload."""
    return {"token" if example.is_upload else "id": example.name, "wanted": example.is_wanted}


def described_hit(hit: Hit) -> dict[str, Any]:
    """One image, with addresses of its pictures."""
    return {
        "rank": hit.rank,
        "id": hit.found.id,
        "label": hit.found.label,
        "score": hit.found.score,
        "file": hit.found.file or None,
        "thumb": f"/thumb/{hit.number}",
        "image": f"/image/{hit.number}",
        "item": f"/api/item/{quoted(hit.found.id)}",
    }


# ---- OpenAPI


def openapi(max_body: int) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    query = [
        {
            "name": p.name,
            "in": "query",
            "description": p.description,
            "schema": {"type": "array", "items": p.schema} if p.repeated else p.schema,
        }
        for p in PARAMETERS
    ]
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    fields = {p.name: {"type": "array", "items": p.schema} if p.repeated else p.schema for p in PARAMETERS}
    form = {
        "type": "object",
        "properties": {
            **fields,
            "image": {**files, "description": "Images to find more like them."},
            "not": {**files, "description": "Images to move away from."},
        },
    }
    number = {"name": "number", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
    name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "fewvit index serve", "version": __version__},
        "paths": {
            "/api/search": {
                "get": _operation(
                    f"The images nearest to the examples, at most {MOST_EXAMPLES} of them; without one, those that "
                    "the filter lets through.",
                    {"200": _json("#/components/schemas/Answer"), **_errors("400", "404", "503")},
                    parameters=query,
                ),
                "post": _operation(
                    f"The same, with uploaded images; at most {max_body:,} bytes in all.",
                    {"200": _json("#/components/schemas/Answer"), **_errors("400", "403", "404", "413", "415", "503")},
                    requestBody={"required": True, "content": {"multipart/form-data": {"schema": form}}},
                ),
            },
            "/api/item/{id}": {
                "get": _operation(
                    "An image of the index by its id.",
                    {"200": _json("#/components/schemas/Hit"), **_errors("404")},
                    parameters=[name],
                )
            },
            "/thumb/{number}": {"get": _picture("A small JPEG", number)},
            "/image/{number}": {"get": _picture("A JPEG of at most 1600 pixels a side", number)},
        },
        "components": {"schemas": _SCHEMAS, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(summary: str, responses: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"summary": summary, "responses": responses, **more}


def _json(reference: str) -> dict[str, Any]:
    return {"description": "JSON", "content": {"application/json": {"schema": {"$ref": reference}}}}


_STATUS = {
    "400": "A parameter is wrong, or an image cannot be decoded.",
    "403": "The request comes from another site's page.",
    "404": "No such image.",
    "413": "The upload is too large.",
    "415": "The body is not multipart/form-data.",
    "503": "Too many searches wait; `Retry-After` says when to come again.",
}


def _errors(*statuses: str) -> dict[str, Any]:
    return {status: {**_json("#/components/schemas/Error"), "description": _STATUS[status]} for status in statuses}


def _picture(what: str, number: Mapping[str, Any]) -> dict[str, Any]:
    jpeg = {"description": what, "content": {"image/jpeg": {}}}
    gone = {"description": "A placeholder that says why there is no picture", "content": {"image/png": {}}}
    return _operation(
        f"{what} of an image, made anew.", {"200": jpeg, "404": gone, **_errors("503")}, parameters=[number]
    )


_TEXT, _WHOLE = {"type": "string"}, {"type": "integer"}
_HIT = {
    "rank": _WHOLE,
    "id": _TEXT,
    "label": {"type": ["string", "null"]},
    "score": {"type": ["number", "null"], "description": "Cosine; null where nothing was searched."},
    "file": {"enum": ["there", "missing", "changed", None], "description": "Whether it is still what was indexed."},
    "thumb": _TEXT,
    "image": _TEXT,
    "item": _TEXT,
}
_EXAMPLE = {"id": _TEXT, "token": _TEXT, "wanted": {"type": "boolean"}}
_INDEX = {"version": _WHOLE, "images": _WHOLE, "backbone": _TEXT}


def _object(properties: Mapping[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


_SCHEMAS = {
    "Hit": _object(_HIT),
    "Answer": _object(
        {
            "schema": {"const": SCHEMA},
            "index": _object(_INDEX),
            "permalink": _TEXT,
            "examples": {"type": "array", "items": _object(_EXAMPLE, ("id", "token"))},
            "results": {"type": "array", "items": {"$ref": "#/components/schemas/Hit"}},
            "next": {"type": ["string", "null"]},
            "seconds": {"type": "number"},
        }
    ),
    "Error": _object({"error": _TEXT}),
}
