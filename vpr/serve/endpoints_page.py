"""``/docs``: the endpoints as one page without scripts, from the OpenAPI description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ info.title }} {{ info.version }}</title>
<style>
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
code { font-size: 1rem } dt { margin-top: .5rem } dd { margin: 0 0 0 1.5rem }
</style></head><body>
<h1>{{ info.title }} {{ info.version }}</h1>
<p>{{ info.description }} Errors are <code>application/problem+json</code>; their <code>detail</code> says what to do.
For programs: <a href="openapi.json">openapi.json</a>.</p>
{% for path, methods in paths.items() %}{% for method, about in methods.items() %}
<h2><code>{{ method | upper }} {{ path }}</code></h2>
<p>{{ about.description }}</p>
<dl>
{% for each in about.parameters or [] %}<dt><code>{{ each.name }}</code> ({{ each.in }})</dt>
<dd>{{ each.description or each.schema.type }}</dd>
{% endfor %}
{% for name, field in (fields(about)).items() %}<dt><code>{{ name }}</code> (form)</dt>
<dd>{{ field.description or "a file" }}</dd>
{% endfor %}
</dl>
{% endfor %}{% endfor %}
</body></html>
"""


def endpoints_page(openapi: Mapping[str, Any]) -> str:
    """The page of an OpenAPI description."""
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(_TEMPLATE)
    return template.render(info=openapi["info"], paths=openapi["paths"], fields=_fields)


def _fields(about: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the form of an endpoint."""
    content = about.get("requestBody", {}).get("content", {})
    fields: Mapping[str, Any] = content.get("multipart/form-data", {}).get("schema", {}).get("properties", {})
    return fields
