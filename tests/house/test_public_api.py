"""The public interface is what ``nanogfl.__all__`` says, in order, and all of it is there."""

import nanogfl


def test_the_public_names_are_sorted_and_listed_once() -> None:
    assert list(nanogfl.__all__) == sorted(set(nanogfl.__all__))


def test_every_public_name_is_there() -> None:
    missing = [name for name in nanogfl.__all__ if getattr(nanogfl, name, None) is None]
    assert not missing


def test_dir_shows_every_public_name() -> None:
    assert set(nanogfl.__all__) <= set(dir(nanogfl))
