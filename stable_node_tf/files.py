"""Files that are complete, or as they were before."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path, and renames it to `path` at the end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(results: Mapping[str, Any], path: str | Path) -> None:
    """Writes results as JSON; NumPy numbers and arrays are welcome.

    Raises:
        ValueError: if a number is NaN or infinite, which JSON cannot say.
        TypeError: if there is anything but plain data.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        raise TypeError(
            "results must hold plain data. Received: " + type(value).__name__
        )

    try:
        text = json.dumps(results, indent=2, allow_nan=False, default=plain)
    except ValueError as error:
        raise ValueError(
            f"results must hold finite numbers only. Received: {error}"
        ) from error
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
