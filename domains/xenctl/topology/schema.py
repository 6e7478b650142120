"""The JSON Schema of topologies, for editors: `python -m domains.xenctl.topology.schema > docs/topology.schema.json`."""

from __future__ import annotations

import json
import sys
from typing import Any

from domains.xenctl.topology.model import Topology


def schema_text() -> str:
    """The schema as it stands in docs/."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **tidied(Topology.model_json_schema(by_alias=True)),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def tidied(schema: Any) -> Any:
    """Without what tells an editor nothing: titles made of keys, and that an optional key may be null. Where keys
    are names, there are no other keys.
    """
    if isinstance(schema, list):
        return [tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: tidied(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))
    }
    if "patternProperties" in found:
        found["additionalProperties"] = False
    if found.get("default", "") is None:
        del found["default"]
        kinds = [kind for kind in found.pop("anyOf", []) if kind != {"type": "null"}]
        found = (kinds[0] if len(kinds) == 1 else {"anyOf": kinds}) | found
    return found


if __name__ == "__main__":
    sys.stdout.write(schema_text())
