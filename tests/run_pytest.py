"""Lets Bazel run a file of tests: python run_pytest.py tests/test_x.py."""

import sys

import pytest

if __name__ == "__main__":
    sys.exit(
        pytest.main(
            [
                *("-p", "no:cacheprovider", "-c", "/dev/null"),
                *("--confcutdir=.", "--import-mode=importlib"),
                *sys.argv[1:],
            ]
        )
    )
