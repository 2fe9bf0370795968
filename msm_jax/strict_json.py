"""JSON by its standard, which has no NaN and no infinity: any other program can read it."""

import json
import math
from typing import Any


def dumps(value: Any, **how: Any) -> str:
    """As `json.dumps`; a number that is not finite becomes null."""
    return json.dumps(_finite(value), allow_nan=False, **how)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value
