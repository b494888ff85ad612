import dataclasses
import importlib
import re

import pytest

from trainers import command_line
from trainers.settings import Settings, setting

PROGRAMS = [
    *("baselines", "certify", "compare", "delta_sweep", "evaluate"),
    *("prepare_data", "summarize", "train", "zoo"),
]


@dataclasses.dataclass(frozen=True)
class Example(Settings):
    """One setting of each kind."""

    size: int = setting(3, "Of it.", least=1)
    bound: float | None = setting(None, "None by default.")
    kind: str = setting("a", "Which.", choices=["a", "b"])
    loud: bool = setting(False, "Whether to shout.")
    names: tuple[str, ...] = setting(("x", "y"), "Of all.")
    places: tuple[float, ...] = setting((), "Where.", above=0)


@dataclasses.dataclass(frozen=True)
class Needed(Settings):
    """One without a default."""

    output: str = setting(dataclasses.MISSING, "Where to.")


SEEN = []


@command_line.program
def program(example: Example, needed: Needed):
    """A program."""
    SEEN.append((example, needed))


@command_line.program
def reads(example: Example, files: list[str]):
    """A program that takes words."""
    SEEN.append(files)


def test_help_tells_every_flag_in_order():
    text = command_line.help_text(program, 60)
    assert (
        text.partition("Flags:")[2]
        == """
  --size=N
      Of it. Default: 3.
  --bound=X
      None by default.
  --kind=a|b
      Which. Default: a.
  --[no]loud
      Whether to shout.
  --names=A,B,...
      Of all. Default: x,y.
  --places=A,B,...
      Where.
  --output=TEXT
      Where to.

--flagfile=FILE reads flags from a file."""
    )


def test_flags_become_settings():
    SEEN.clear()
    program(["--output=here"])
    words = ["--bound=2", "--loud", "--names=z", "--places=1,2.5", "--kind=b"]
    program(["--output=x", *words, "--output=there"])
    reads(["one", "--noloud", "two"])
    changed = {"bound": 2.0, "loud": True, "kind": "b", "names": ("z",)}
    assert SEEN == [
        (Example(), Needed(output="here")),
        (Example(**changed, places=(1, 2.5)), Needed(output="there")),
        ["one", "two"],
    ]


def test_flags_come_from_a_file(tmp_path):
    SEEN.clear()
    (tmp_path / "flags").write_text("--size=7\n--output=here\n")
    program([f"--flagfile={tmp_path / 'flags'}"])
    assert SEEN[0][0].size == 7


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_help(name):
    """Imported side by side, each tells its own flags."""
    main = importlib.import_module(f"trainers.{name}").main
    text = command_line.help_text(main, 72)
    assert f"python -m trainers.{name}" in text
    flag_lines = text.partition("Flags:")[2].splitlines()
    for line in flag_lines:  # the values of a choice stay in one piece
        assert len(line) <= 72 or " " not in line.strip()


def run(main, *arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_asking_for_help_is_no_failure(capsys, flag):
    program(["--unknown", flag])
    assert "--output=TEXT" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--no_such_flag", "error: Unknown command line flag 'no_such_flag'"),
        ("stray", "error: Unknown arguments: stray"),
        ("--flagfile=/nowhere", "error: .*nowhere"),
        ("--size=many", "error: .*size.*many"),
        ("--size=0", "error: `size` must be .* >= 1. Received: size=0"),
        ("--kind=c", "error: `kind` must be one of .* kind='c'"),
        ("--bound=nan", "error: .*bound=nan"),
        ("--places=1,x", "error: --places: .*x"),
        ("--places=1,-1", "error: .*places=-1.0"),
        ("--names=", r"error: `names` must be not empty.*names=\(\)"),
        ("--loud", "error: --output must be given"),
    ],
)
def test_one_line_says_what_is_wrong(capsys, argument, message):
    words = [] if argument == "--loud" else ["--output=x"]
    first, *rest = run(program, *words, argument).splitlines()
    assert re.match(message, first)
    assert rest in ([], ["--help lists the flags."])
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "raised, code",
    [
        (KeyboardInterrupt(), 130),
        (ValueError("Odd."), "error: Odd."),
        (OSError(2, "No such file", "x"), "error: [Errno 2] No such file: 'x'"),
    ],
)
def test_what_stops_a_program_leaves_no_traceback(raised, code, capsys):
    @command_line.program
    def stopped(example: Example):
        raise raised

    with pytest.raises(SystemExit) as end:
        stopped([])
    assert end.value.code == code
    interrupted = "Interrupted" in capsys.readouterr().err
    assert interrupted == isinstance(raised, KeyboardInterrupt)
