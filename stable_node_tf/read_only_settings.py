"""Objects whose constructor arguments cannot be changed afterwards."""

import inspect
from collections.abc import Iterable
from typing import Any, ClassVar


class ReadOnlySettings:
    """Makes the arguments of the constructor read-only once they are set.

    Constraints, reports, saved files and traced functions depend on them. If
    one changed later, some would follow and others would not: a bound could be
    reported that does not hold. The methods of an instance cannot be replaced
    either.

    It comes first among the bases of a class. The class keyword `settings`
    names attributes that are read-only besides the constructor arguments.

    >>> class Grid(ReadOnlySettings):
    ...     def __init__(self, num_steps):
    ...         self.num_steps = num_steps
    >>> Grid(3).num_steps = 4
    Traceback (most recent call last):
    ...
    AttributeError: `num_steps` of Grid is read-only, as all settings are. ...
    """

    _settings: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(
        cls, settings: Iterable[str] = (), **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        arguments = inspect.signature(cls.__init__).parameters
        cls._settings = cls._settings | {*arguments, *settings}

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse_change(name, f" Received: {name}={value!r}")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._refuse_change(name, "")
        super().__delattr__(name)

    def _refuse_change(self, name: str, received: str) -> None:
        own, of_class = vars(self), type(self)
        if name in self._settings:
            if name in own or hasattr(of_class, name):
                raise AttributeError(
                    f"`{name}` of {self._title()} is read-only, as all "
                    f"settings are. {self._instead()}{received}"
                )
        elif callable(getattr(of_class, name, None)) and (
            not self._settings.isdisjoint(own)  # Keras wraps `build` before
        ):
            raise AttributeError(
                f"`{name}` is a method of {self._title()}, and what is proven "
                "of the class would not hold for an instance with another "
                f"one: define a subclass.{received}"
            )

    def _title(self) -> str:
        return type(self).__name__

    def _instead(self) -> str:
        """What to do to have another value."""
        return (
            f"Make a new {type(self).__name__} from `get_config()` with the "
            "changed value."
        )
