"""Runs a program of this package and prints its `--help`.

absl lists flags alphabetically under the path of a file, and knows none of
them when a program is started by its entry point. Here they come in the order
in which the program defines them, below its docstring.
"""

import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from absl import app, flags

flags.disclaim_key_flags()  # those defined here are of the module that asks

# What programs say in one line: bad input, files, a package that is missing.
REFUSALS = (
    ModuleNotFoundError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_HELP = ("-h", "-help", "--help")
_VALUES = {
    "int": "N",
    "float": "X",
    "string": "TEXT",
    "multi string": "TEXT",
}


def define_strategy(names: Sequence[str]) -> flags.FlagHolder[str]:
    """Defines the flag --strategy of a program that trains.

    Args:
      names: those of `trainers.distribution.strategy`.
    """
    return flags.DEFINE_enum(
        "strategy",
        "none",
        names,
        "mirrored: train on all devices of this machine. multi_worker: on the "
        "machines that TF_CONFIG lists, each of which runs this command, with "
        "a directory for output that they share. The batch is divided among "
        "them. See docs/training.md.",
        allow_override=True,
    )


def require_budgets(name: str) -> None:
    """Makes a list flag refuse all but finite numbers >= 0, at least one."""

    def valid(values: Sequence[str]) -> bool:
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            return False
        return bool(numbers) and all(0.0 <= x < math.inf for x in numbers)

    flags.register_validator(
        name, valid, "must be finite numbers >= 0, with commas"
    )


def run(main: Callable[[Sequence[str]], Any]) -> None:
    """Parses the command line and runs `main`, as `absl.app.run` does.

    What is wrong with the command line is said in one line, and the exit
    status is 1 then; after Ctrl-C it is 130.

    Args:
      main: function of a module whose docstring says what the program does and
        whose flags are the program's.
    """

    def parse(argv: list[str]) -> list[str]:
        if any(argument in _HELP for argument in argv[1:]):
            print(help_text(sys.modules[main.__module__]))
            sys.exit(0)
        try:
            return flags.FLAGS(argv)
        except (flags.Error, OSError) as error:  # OSError: of --flagfile
            sys.exit(f"error: {error}\n--help lists the flags.")

    def run_main(argv: Sequence[str]) -> Any:
        try:
            return main(argv)
        except app.UsageError as error:
            sys.exit(f"error: {error}\n--help lists the flags.")
        except KeyboardInterrupt:
            print("\nInterrupted.", file=sys.stderr)
            sys.exit(130)

    app.run(run_main, flags_parser=parse)


def help_text(module: ModuleType, width: int | None = None) -> str:
    """Describes a program: its docstring, then its flags.

    Args:
      module: the program.
      width: characters a line; by default those of the terminal, at most 88.
    """
    width = width or min(shutil.get_terminal_size().columns, 88)
    name = sys.argv[0] if module.__name__ == "__main__" else module.__name__
    own = flags.FLAGS.flags_by_module_dict().get(name, [])
    lines = [(module.__doc__ or "").strip(), "", *(["Flags:"] if own else [])]
    for flag in own:
        lines.append(f"  {_synopsis(flag)}")
        lines += textwrap.wrap(
            _description(flag),
            width,
            initial_indent=" " * 6,
            subsequent_indent=" " * 6,
        )
    if own:
        lines += ["", "--flagfile=FILE reads flags from a file."]
    return "\n".join(lines)


def _synopsis(flag: flags.Flag) -> str:
    if flag.boolean:
        return f"--[no]{flag.name}"
    choices = getattr(flag.parser, "enum_values", None)
    value = "|".join(choices) if choices else _VALUES.get(flag.flag_type())
    return f"--{flag.name}={value or 'A,B,...'}"


def _description(flag: flags.Flag) -> str:
    text = (flag.help or "").strip()
    if getattr(flag.parser, "enum_values", None):
        text = text.partition(">: ")[2]  # absl puts the choices in front
    text = text.partition(";\n    repeat this option")[0]
    if flag.default is None or flag.default is False or flag.default == []:
        return text
    default = flag.default_as_str.strip("'")
    return f"{text} Default: {default}."
