"""Classes that are known by the names they declare."""

from typing import Any


def register(cls: Any, by_name: dict[str, Any]) -> None:
    """Enters a class into a table if it declares a `name` of its own.

    Args:
      cls: the class.
      by_name: maps names to classes. A class that is defined again, as in a
        notebook, replaces the one before.

    Raises:
      ValueError: if another class has that name.
    """
    if "name" not in vars(cls):
        return
    known = by_name.get(cls.name, cls)
    if _origin(known) != _origin(cls):
        raise ValueError(
            f"`name` must not be that of another class, {_origin(known)}. "
            f"Received: {_origin(cls)} with name={cls.name!r}"
        )
    by_name[cls.name] = cls


def _origin(cls: Any) -> str:
    return (
        f"{getattr(cls, '__module__', '')}.{getattr(cls, '__qualname__', cls)}"
    )
