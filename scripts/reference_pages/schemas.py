"""The pages on model.yaml and samples, from the JSON Schemas that `make schema` writes from the types."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from reference_pages.markdown import ROOT, escaped, literal, page, table


def resolved(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return a field's schema with its reference replaced; the field's own words win over those of what it refers to."""
    if "$ref" in field:
        return {**definitions[field["$ref"].rpartition("/")[2]], **{key: value for key, value in field.items() if key != "$ref"}}
    return dict(field)


def kind_of(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return a field's type in words."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(kind_of(resolved(one, definitions), definitions) for one in field["anyOf"]))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return literal(field["const"])
    kind = field.get("type", "any JSON")
    if kind == "array":
        return f"list of {kind_of(resolved(field.get('items', {}), definitions), definitions)}"
    if isinstance(kind, list):
        return " or ".join(kind)
    names = {"object": "mapping", "boolean": "true or false", "null": "null"}
    return names.get(str(kind), str(kind)) + limits_of(field)


def limits_of(field: Mapping[str, Any]) -> str:
    """Return a number's limits, in brackets."""
    words = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "exclusiveMinimum": "more than {}",
        "exclusiveMaximum": "less than {}",
    }
    limits = [text.format(field[key]) for key, text in words.items() if key in field]
    return f" ({', '.join(limits)})" if limits else ""


def nested(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the mapping with further fields that a field may hold."""
    for one in [field, *field.get("anyOf", [])]:
        part = resolved(one, definitions)
        if "properties" in part:
            return part
    return None


def fields_of(schema: Mapping[str, Any], definitions: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield path, type, default and description of every field, parents first."""
    for name, raw in schema["properties"].items():
        field, path = resolved(raw, definitions), f"{above}{name}"
        part = nested(raw, definitions)
        default = "required" if name in schema.get("required", []) else ""
        if "default" in field and field["default"] is not None and part is None:
            default = literal(field["default"])
        yield f"`{path}`", kind_of(field, definitions), default, field.get("description", "")
        if part is not None:
            yield from fields_of(part, definitions, f"{path}.")


def annotated(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], examples: Mapping[str, str], indent: str = ""
) -> Iterator[str]:
    """Yield the lines of a file with every field at its default; what has none is commented out."""
    for name, raw in schema["properties"].items():
        field, part = resolved(raw, definitions), nested(raw, definitions)
        note = f"  # {escaped(field.get('description', ''))}"
        if part is not None and "uri" not in part["properties"]:
            yield f"{indent}{name}:{note}"
            yield from annotated(part, definitions, examples, indent + "  ")
        elif name in examples:
            yield f"{indent}{name}: {examples[name]}{note}"
        elif field.get("default") is None:
            yield f"{indent}# {name}:{note}"
        else:
            yield f"{indent}{name}: {json.dumps(field['default'])}{note}"


def schema_named(name: str) -> dict[str, Any]:
    """Return one of the published JSON Schemas, which `make schema` writes from the types."""
    schema: dict[str, Any] = json.loads((ROOT / "schema" / name).read_text(encoding="utf-8"))
    return schema


def model_yaml() -> str:
    """Return the page on model.yaml."""
    schema = schema_named("model.schema.json")
    definitions = schema["$defs"]
    examples = {"name": "digits", "weights": "model.pt", "handler": "tensor"}
    lines = "\n".join(annotated(schema, definitions, examples))
    return page(
        "model.yaml",
        "the types in scripts/torchrelay/model",
        "The one required file of a model directory. An unknown key is an error. Your editor completes and checks the file when "
        "its first line names the schema:",
        f"```yaml\n# yaml-language-server: $schema={schema['$id']}\n```",
        "## Every field",
        table(["field", "type", "default", "description"], fields_of(schema, definitions)),
        "`sagemaker`, `lambda` and `vertex` are accepted, and not deployed to yet.",
        "## The same as a file",
        "Every field with its default; a line that is commented out has none.",
        f"```yaml\n{lines}\n```",
    )


def samples() -> str:
    """Return the page on sample files."""
    schema = schema_named("sample.schema.json")
    return page(
        "Samples",
        "the types in scripts/torchrelay/model",
        "A sample is a request with the answer that the model must give. Samples are the gate: an image that fails one is neither "
        "pushed nor deployed. A sample is one JSON file in the model's `samples` folder, or a pair of files:",
        table(
            ["file", "holds"],
            [
                ["`NAME.json`", "request and expectation, as below"],
                ["`NAME.request.EXT`", "the body; the extension gives the content type"],
                ["`NAME.expected.EXT`", "the answer to that body"],
                ["`NAME.compare.json`", "optional, beside a pair: `status`, `compare`, `atol`, `rtol`, `k`, `latency_ms`"],
            ],
        ),
        "`torchrelay samples record` fills in the answers of a run, for you to review before you commit them.",
        "## Every field",
        table(["field", "type", "default", "description"], fields_of(schema, schema["$defs"])),
        f"Schema for editors: `{schema['$id']}`.",
    )
