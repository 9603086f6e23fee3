"""The address of the documentation of an error's kind: the section of docs/troubleshooting.md that bears its name."""

PAGE = "https://github.com/org/deploy/blob/main/docs/troubleshooting.md"


def address(kind: str) -> str:
    """Return where docs/troubleshooting.md explains errors of a kind, for example `gate_failed`."""
    return f"{PAGE}#{kind}"
