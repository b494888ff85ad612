"""Forked processes, in which tests start TensorFlow more than once."""

import os
import sys


def in_children(*jobs):
    """Forks a child for each job, and returns their exit statuses."""
    children = []
    for function, *arguments in jobs:
        child = os.fork()
        if child == 0:
            try:
                function(*arguments)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            sys.stdout.flush()
            os._exit(0)
        children.append(child)
    return [os.waitpid(child, 0)[1] for child in children]
