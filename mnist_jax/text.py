"""Names and errors as one line of text, whatever they hold."""


def one_line(text: str) -> str:
    """Returns a name that can be printed, drawn and written: no newlines, no control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def error_line(error: BaseException, limit: int = 300) -> str:
    """Returns the type of an error and its message, of at most `limit` characters."""
    return one_line(" ".join(f"{type(error).__name__}: {error}".split())[:limit])
