"""Classes that are known by the names they declare."""

from typing import Any


def register(cls: Any, by_name: dict[str, Any]) -> None:
    """Enters a class into a table if it declares a `name` of its own.

    Defined again, as in a notebook, it replaces the class before.

    Raises:
      ValueError: if another class has that name.
    """
    if "name" not in vars(cls):
        return
    known = by_name.setdefault(cls.name, cls)
    if repr(known) != repr(cls):
        raise ValueError(
            f"`name` must not be that of {known!r}. "
            f"Received: {cls.__name__} with name={cls.name!r}"
        )
    by_name[cls.name] = cls
