"""Settings: frozen dataclasses whose fields say which values they take.

Recipes and the options of programs are settings. A field is declared once, with
its default, its meaning and its range: the constructor checks the value, and
`trainers.command_line` makes a flag of the field.
"""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Collection
from typing import Any

from stable_node_tf.checks import check_number

_NOUNS = {int: "an integer", float: "a number", str: "a text"}


def setting(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    choices: Collection[str] | None = None,
) -> Any:
    """Declares a field of `Settings`.

    Args:
      default: the value that the flag has when it is not given, or
        `dataclasses.MISSING` for a flag that must be given.
      help: sentences for `--help`.
      least: the smallest number allowed.
      above: a number that the value must exceed.
      most: the largest number allowed.
      choices: the texts allowed.
    """
    rules = {"least": least, "above": above, "most": most, "choices": choices}
    return dataclasses.field(
        default=default, metadata={"help": help, **rules}, kw_only=True
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """Checks its fields when it is made.

    A field is an int, a float, a str or a bool; one of these or None; or a
    tuple of any length of these.

    Raises:
      TypeError: if a number is expected and something else comes.
      ValueError: if a value is not one that its field can have.
    """

    def __post_init__(self) -> None:
        """Refuses values that a field does not take."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kind, optional, many = kind_of(field)
            if many:
                given = len(value) > 0 or value == field.default
                require(given, field.name, value, "not empty")
                for item in value:
                    _check(field, item, kind)
            elif value is not None or not optional:
                _check(field, value, kind)

    def fingerprint(self) -> str:
        """Returns eight hexadecimal digits that name the changed fields.

        Fields at their defaults do not count: a field that is added later,
        with a default that changes nothing, leaves fingerprints as they are,
        and with them the checkpoints of trained models.
        """
        chosen = {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        }
        text = json.dumps(chosen, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def is_written(self, fields: dict[str, Any]) -> bool:
        """Whether these fields, written earlier, are those of this object.

        Fields that were added since then count as at their defaults.
        """
        later = {f.name: f.default for f in dataclasses.fields(self)}
        return later | fields == dataclasses.asdict(self)


def kind_of(field: dataclasses.Field) -> tuple[type, bool, bool]:
    """Returns the type of a field, whether it may be None, or is a tuple."""
    inner = typing.get_args(field.type)
    many = typing.get_origin(field.type) is tuple
    kind: Any = inner[0] if inner else field.type
    return kind, type(None) in inner, many


def require(condition: bool, name: str, value: Any, what: str) -> None:
    """Raises ValueError, saying what a field must be, unless it is that."""
    if not condition:
        raise ValueError(f"`{name}` must be {what}. Received: {name}={value!r}")


def _check(field: dataclasses.Field, value: Any, kind: type) -> None:
    rules, name = field.metadata, field.name
    if choices := rules.get("choices"):
        known = isinstance(value, str) and value in choices
        require(known, name, value, f"one of {tuple(choices)}")
    if kind is bool:
        require(isinstance(value, bool), name, value, "True or False")
        return
    what = _NOUNS[kind]
    if kind is float:
        check_number(value, name)
    else:
        require(type(value) is kind, name, value, what)
    for rule, sign, holds in (
        ("least", ">=", lambda bound: value >= bound),
        ("above", ">", lambda bound: value > bound),
        ("most", "<=", lambda bound: value <= bound),
    ):
        if (bound := rules.get(rule)) is not None:
            require(holds(bound), name, value, f"{what} {sign} {bound}")
