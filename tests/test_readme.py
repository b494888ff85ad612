import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_python_examples_run(capsys):
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert examples
    names = {}
    for example in examples:
        exec(compile(example, str(README), "exec"), names)
    report = names["model"].layers[2].stability()
    assert report.delta_upper <= 0.0
    assert "StabilityReport(" in capsys.readouterr().out
    assert names["bracket"].lower <= names["bracket"].upper
    assert names["nearest"].distance > 0.0


def test_files_it_names_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert links
    for link in links:
        assert (README.parent / link).exists(), link
