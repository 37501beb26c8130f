"""What a configuration model allows and what is wrong with given values, in words for the user."""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError


def allowed_values(schema: Mapping[str, Any]) -> str:
    """The values that a key with this JSON schema allows, in words."""
    if "allowed" in schema:
        return schema["allowed"]
    if "enum" in schema:
        return " or ".join(f"'{choice}'" for choice in schema["enum"])
    if schema["type"] in ("boolean", "string"):
        return "true or false" if schema["type"] == "boolean" else "text"
    noun = "an integer" if schema["type"] == "integer" else "a number"
    low, high, below = (schema.get(bound) for bound in ("minimum", "maximum", "exclusiveMaximum"))
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"]
        return f"{noun} of at least {low + 1}" if schema["type"] == "integer" else f"{noun} above {low}"
    if high is None and below is None:
        return f"{noun} of at least {low}"
    if schema["type"] == "integer":
        return f"{noun} from {low} to {'2^63 - 1' if high == 2**63 - 1 else high}"
    return f"{noun} from {low} to {high}" if below is None else f"{noun} from {low} to below {below}"


def error_sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """The first error, unknown keys before all others, as one sentence: what was given, and what is allowed."""
    schemas = model.model_json_schema()["properties"]
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    if not first["loc"]:  # of keys that do not fit together
        return str(first["ctx"]["error"])
    key = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, schemas, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the known keys are {', '.join(schemas)}."
        return f"There is no run-config key {key}: {hint}"
    if first["type"] == "missing":
        return f"The run config lacks the key {key}: add it; pyproject.toml has its default."
    return f"{key} = {first['input']!r} is not allowed: it must be {allowed_values(schemas[key])}."
