"""Entry point of the command line: ``nanogfl``, or ``python -m nanogfl`` if scripts are not on the path."""

import sys


def main() -> None:
    """Run the command; report Ctrl-C during its imports in one line too."""
    try:
        from nanogfl.cli import main as command
    except KeyboardInterrupt:
        sys.exit("error: interrupted; nothing was begun")
    command()


if __name__ == "__main__":
    main()
