import re
import subprocess
import sys
import types

import pytest
from absl import app, flags
from absl.testing import flagsaver

from trainers import command_line

PROGRAMS = [
    "certify",
    "compare",
    "evaluate",
    "prepare_data",
    "baselines",
    "summarize",
    "train",
    "zoo",
]


@pytest.fixture
def example(monkeypatch):
    """A program with one flag of each kind."""
    module = types.ModuleType(
        "example_program", "Does things.\n\n    example\n"
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    for define, name, default, *rest in (
        (flags.DEFINE_integer, "size", 3, "Of it."),
        (flags.DEFINE_float, "bound", None, "None by default."),
        (flags.DEFINE_enum, "kind", "a", ["a", "b"], "Which."),
        (flags.DEFINE_bool, "loud", False, "Whether to shout."),
        (flags.DEFINE_integer, "zero", 0, "Of nothing."),
        (flags.DEFINE_list, "names", ["x", "y"], "Of all."),
        (flags.DEFINE_multi_string, "set", [], "Field; may be repeated."),
    ):
        holder = define(name, default, *rest, flag_values=values)
        values.register_flag_by_module(module.__name__, values[holder.name])
    return module


def test_help_tells_every_flag_in_order(example):
    assert (
        command_line.help_text(example, 60)
        == """\
Does things.

    example

Flags:
  --size=N
      Of it. Default: 3.
  --bound=X
      None by default.
  --kind=a|b
      Which. Default: a.
  --[no]loud
      Whether to shout.
  --zero=N
      Of nothing. Default: 0.
  --names=A,B,...
      Of all. Default: x,y.
  --set=TEXT
      Field; may be repeated.

--flagfile=FILE reads flags from a file."""
    )


def test_every_program_has_help():
    """In a process of its own, since programs take each other's flags."""
    code = (
        "import importlib\n"
        "from trainers import command_line\n"
        f"for name in {PROGRAMS}:\n"
        "    program = importlib.import_module(f'trainers.{name}')\n"
        "    print(command_line.help_text(program, 72), end='\\0')\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    texts = printed.split("\0")[:-1]
    for name, text in zip(PROGRAMS, texts, strict=True):
        assert f"python -m trainers.{name}" in text
        flag_lines = text.partition("Flags:")[2].splitlines()
        for line in flag_lines:  # the values of a choice stay in one piece
            assert len(line) <= 72 or " " not in line.strip()


def run(monkeypatch, main, *arguments):
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
        command_line.run(main)
    return end.value.code


def main(argv):
    """Stands for the main function of a program."""
    raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_asking_for_help_is_no_failure(monkeypatch, capsys, flag):
    assert run(monkeypatch, main, "--unknown", flag) == 0
    assert capsys.readouterr().out.strip() == ""


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--no_such_flag", "error: Unknown command line flag 'no_such_flag'"),
        ("stray", "error: Unknown arguments: stray"),
        ("--flagfile=/nowhere", "error: .*nowhere"),
    ],
)
def test_one_line_says_what_is_wrong(monkeypatch, capsys, argument, message):
    code = run(monkeypatch, main, argument)
    assert code.splitlines()[1:] == ["--help lists the flags."]
    assert re.match(message, code)
    assert not capsys.readouterr().out


def interrupted(argv):
    """Stands for a program while somebody presses Ctrl-C."""
    raise KeyboardInterrupt


def test_an_interrupt_leaves_no_traceback(monkeypatch, capsys):
    assert run(monkeypatch, interrupted) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"
