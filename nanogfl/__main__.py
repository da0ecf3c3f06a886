"""``python -m nanogfl`` is the command, for where the scripts of an environment are not on the path."""

from nanogfl.cli import main

if __name__ == "__main__":
    main()
