"""Words for messages."""

from __future__ import annotations

import json


class Misspelt(ValueError):
    """A value that is wrong, of which it is known how it was meant."""

    def __init__(self, message: str, correction: str) -> None:
        """``correction``: the value as it should have been written."""
        super().__init__(message)
        self.correction = correction


def printable(text: str) -> str:
    """The text for a terminal: what could do something there, or is nothing to be seen, is escaped
    as Python has it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(value: object) -> str:
    """The value as a message shows it: quoted, escaped, cut short; never more than one line."""
    match value:
        case str() if "PRIVATE KEY-----" in value:
            return "a private key"
        case str():
            text = value if len(value) <= 80 else value[:79] + "…"
            quoted = json.dumps(text, ensure_ascii=not text.isprintable())
            return quoted.replace("\x7f", "\\u007f")  # the one control JSON does not escape
        case bool():
            return "true" if value else "false"
        case int() if value.bit_length() > 64:  # Python refuses to print thousands of digits
            return "a number of this size"
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case _:
            return str(value)
