"""Text of foreign files, made fit for a terminal and for messages."""

MAX_SHOWN = 80  # characters of a foreign file's own text in a message
MAX_LINE = 700  # characters of a line that is printed, or quoted within a message


def printable(text: object, most: int = MAX_SHOWN) -> str:
    """Returns text of a file, short and without control characters, for a message.

    Only ASCII is left: other letters may look like these, or turn a line's direction.
    """
    escaped = str(text)[: most + 1].encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= most else escaped[:most] + "..."


def printable_lines(text: str) -> str:
    """Returns a whole message, its lines kept, each shortened and without control characters."""
    return "\n".join(map(_printable_line, text.split("\n")))


def escaped(text: str) -> str:
    """Returns a whole text, such as a file's name, with its control characters escaped."""
    return "".join(c if c.isprintable() else printable(c) for c in text)


def _printable_line(line):
    return escaped(line if len(line) <= MAX_LINE else line[:MAX_LINE] + "...")
