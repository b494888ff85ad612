"""Bazel tests that pytest runs."""

load("@rules_python//python:defs.bzl", "py_test")

def pytest_test(name, src, size, deps = [], data = []):
    """Declares a py_test whose source is a file of pytest tests.

    Args:
      name: name of the target.
      src: the file of tests.
      size: small, medium, large or enormous: how long Bazel waits.
      deps: the libraries under test.
      data: other files that the tests read.
    """
    py_test(
        name = name,
        size = size,
        srcs = [
            src,
            "//tests:conftest.py",
            "//tests:run_pytest.py",
        ],
        args = ["$(location %s)" % src],
        data = data,
        main = "//tests:run_pytest.py",
        deps = deps,
    )
