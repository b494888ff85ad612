"""Makes programs of functions: flags, `--help`, and errors in one line.

The flags of a program are the fields of the `Settings` that its main function
takes. Every call has flags of its own, so that programs imported side by side
do not clash.
"""

import dataclasses
import functools
import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging

from trainers.distribution import STRATEGIES
from trainers.settings import Settings, kind_of, setting

# What programs say in one line: bad input, files, a package that is missing.
REFUSALS = (
    ModuleNotFoundError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_HELP = ("-h", "-help", "--help")
_DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    bool: flags.DEFINE_bool,
}
_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT"}


@dataclasses.dataclass(frozen=True)
class DataOptions(Settings):
    """Options of every program that needs images."""

    data_dir: str | None = setting(
        None,
        "Directory of the TFDS data sets; by default $TFDS_DATA_DIR, else "
        "~/tensorflow_datasets.",
    )


@dataclasses.dataclass(frozen=True)
class StrategyOptions(Settings):
    """Options of programs that train on several devices."""

    strategy: str = setting(
        "none",
        "mirrored: train on all devices of this machine. multi_worker: on the "
        "machines that TF_CONFIG lists, each of which runs this command, with "
        "a directory for output that they share. The batch is divided among "
        "them. See docs/training.md.",
        choices=STRATEGIES,
    )


def program(main: Callable[..., Any]) -> Callable[..., None]:
    """Makes a program of a function.

    The program takes the words of the command line, by default those of this
    process. What is wrong with them, or with what they name, is said in one
    line, and the exit status is 1; after Ctrl-C it is 130.

    Args:
      main: a function whose parameters are annotated with subclasses of
        `Settings`, and, if it takes words without a flag, the last one with
        `list[str]`. The docstring of its module describes the program.
    """

    @functools.wraps(main)
    def run(words: Sequence[str] | None = None) -> None:
        words = sys.argv[1:] if words is None else words
        if any(word in _HELP for word in words):
            print(help_text(main))
            return
        logging.set_verbosity(logging.ERROR)  # models in turn are retraced
        try:
            main(*_parsed(main, words))
        except flags.Error as error:
            sys.exit(f"error: {error}\n--help lists the flags.")
        except REFUSALS as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            print(
                "\nInterrupted. The same command carries on from what it has "
                "written.",
                file=sys.stderr,
            )
            sys.exit(130)

    return run


def help_text(main: Callable[..., Any], width: int | None = None) -> str:
    """Describes a program: the docstring of its module, then its flags.

    Args:
      main: the function, or the program made of it.
      width: characters a line; by default those of the terminal, at most 88.
    """
    width = width or min(shutil.get_terminal_size().columns, 88)
    doc = sys.modules[main.__module__].__doc__ or ""
    lines = [doc.strip(), "", "Flags:"]
    for field in _fields(main):
        lines.append(f"  {_synopsis(field)}")
        lines += textwrap.wrap(
            _description(field),
            width,
            initial_indent=" " * 6,
            subsequent_indent=" " * 6,
        )
    return "\n".join([*lines, "", "--flagfile=FILE reads flags from a file."])


def _kinds(main: Callable[..., Any]) -> list[Any]:
    parameters = inspect.signature(main).parameters.values()
    return [parameter.annotation for parameter in parameters]


def _fields(main: Callable[..., Any]) -> list[dataclasses.Field]:
    return [
        field
        for kind in _kinds(main)
        if isinstance(kind, type) and issubclass(kind, Settings)
        for field in dataclasses.fields(kind)
    ]


def _parsed(main: Callable[..., Any], words: Sequence[str]) -> list[Any]:
    """Returns the arguments that the words of a command line stand for."""
    values = flags.FlagValues()
    for field in _fields(main):
        kind, _, many = kind_of(field)
        define: Any = flags.DEFINE_list if many else _DEFINE[kind]
        define(field.name, None, "", flag_values=values)
    rest = values(["program", *words])[1:]
    arguments: list[Any] = []
    for annotation in _kinds(main):
        if annotation == list[str]:
            arguments.append(rest)
            rest = []
        else:
            arguments.append(_made(annotation, values))
    if rest:
        raise flags.Error(f"Unknown arguments: {' '.join(rest)}")
    return arguments


def _made(kind: type[Settings], values: flags.FlagValues) -> Settings:
    given: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        value = values[field.name].value
        of, _, many = kind_of(field)
        if value is None and _is_required(field):
            raise flags.Error(f"--{field.name} must be given.")
        if many and value is not None:
            try:
                given[field.name] = tuple(of(item) for item in value)
            except ValueError as error:
                raise flags.Error(f"--{field.name}: {error}") from error
        elif value is not None:
            given[field.name] = value
    return kind(**given)


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING


def _synopsis(field: dataclasses.Field) -> str:
    kind, _, many = kind_of(field)
    if kind is bool:
        return f"--[no]{field.name}"
    if many:
        return f"--{field.name}=A,B,..."
    choices = field.metadata["choices"]
    return f"--{field.name}={'|'.join(choices or [_PLACEHOLDERS[kind]])}"


def _description(field: dataclasses.Field) -> str:
    text, default = field.metadata["help"], field.default
    if default in (None, False, ()) or _is_required(field):
        return text
    if isinstance(default, tuple):
        default = ",".join(f"{item}" for item in default)
    return f"{text} Default: {default}."
