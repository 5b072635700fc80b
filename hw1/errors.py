"""What went wrong, said in one line to the person who typed the command."""

LONGEST = 80  # characters of a value in a message


class UserError(Exception):
    """Bad input: the command line, a config file, a data file or a folder.

    The message is one line that names the key or file, the value, and what is allowed; the command line prints it
    after ``error: `` and ends with exit code 2.
    """


def one_line(message: object) -> str:
    """Any message as one line without control characters, which a terminal would obey."""
    words = " ".join(str(message).split())
    return "".join(character if character.isprintable() else "?" for character in words)


def system_words(error: OSError, place: object = "") -> str:
    """What the system said, of which path; `place` if the error names none."""
    where = error.filename or place
    return f"{f'{where}: ' if where else ''}{error.strerror or error} (errno {error.errno})"


def shortened(value: object, longest: int = LONGEST) -> str:
    """A value as it goes into a message: its beginning, where it is long."""
    text = str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def written(value: object) -> str:
    """A value as it is typed on the command line: null, true and false in small letters."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
