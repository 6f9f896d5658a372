"""Warnings of the package as plain lines: `warning: ...`, without levels and modules' names."""

import logging
import sys
import textwrap
import warnings
from collections.abc import Callable

import tqdm

from toklip_jax.core.lines import INDENT, MAX_COLUMNS

OURS = "toklip_jax"
_OF_OTHERS: list[Callable[..., None]] = []  # how Python itself shows warnings


def use_plain_lines() -> None:
    """Prints what the package logs, and its Python warnings, as plain lines on standard error.

    Lines of libraries keep their form. Calling it again changes nothing.
    """
    root = logging.getLogger()
    if not any(isinstance(handler, _PlainLines) for handler in root.handlers):
        root.addHandler(_PlainLines())
    for handler in root.handlers:
        if type(handler) is logging.StreamHandler and _is_of_others not in handler.filters:
            handler.addFilter(_is_of_others)  # else lines are printed twice
    if warnings.showwarning is not _show_warning:
        _OF_OTHERS.append(warnings.showwarning)
        warnings.showwarning = _show_warning


class _PlainLines(logging.Handler):
    """Prints the package's own log lines, above a progress bar where there is one."""

    def emit(self, record):
        if not _is_of_others(record):
            _say(record.levelno, self.format(record))


def _is_of_others(record):
    return record.name.split(".")[0] != OURS


def _show_warning(message, category, filename, lineno, file=None, line=None):
    if issubclass(category, UserWarning):
        _say(logging.WARNING, str(message))
    else:  # for the programmers of a library
        _OF_OTHERS[-1](message, category, filename, lineno, file, line)


def _say(level, text):
    text = f"{logging.getLevelName(level).lower()}: {text}" if level >= logging.WARNING else text
    if sys.stderr.isatty():
        text = "\n".join(map(_filled, text.split("\n")))
    tqdm.tqdm.write(text, sys.stderr)


def _filled(line):
    return textwrap.fill(line, MAX_COLUMNS, subsequent_indent=INDENT, break_long_words=False)
