"""What a TensorFlow operation said when it failed, in one line."""

import re

import tensorflow as tf

# What TensorFlow and Keras put around it.
_AROUND = re.compile(
    r"Graph exec|Detected at|File |<stack|\[\[|\d+ root error|$"
)
_DECORATION = re.compile(
    r"\{\{.*?\}\} *|^\(\d+\) [A-Z_]+: | *\[Op:[^]]*\].*| *\[\[\{\{.*"
)


def reason(error: tf.errors.OpError) -> str:
    r"""Returns the one line of an error's message that says what was wrong.

    >>> message = "Graph execution error:\n\nToo large\n\t [[{{node x}}]]"
    >>> reason(tf.errors.InvalidArgumentError(None, None, message))
    'Too large'
    """
    assertion = re.search(r"assertion failed: (.*)", error.message)
    if assertion:
        return re.sub(r"[\[\]]", "", assertion[1])
    for line in error.message.splitlines():
        said = _DECORATION.sub("", line.strip())
        if not _AROUND.match(said):
            return said
    return type(error).__name__
