"""Where the command begins: ``nanogfl``, or ``python -m nanogfl`` where scripts are not on the path."""

import sys


def main() -> None:
    """The command; Ctrl-C within its imports is said in one line too."""
    try:
        from nanogfl.cli import main as command
    except KeyboardInterrupt:
        sys.exit("error: interrupted; nothing was begun")
    command()


if __name__ == "__main__":
    main()
