"""All kinds of dataset problems: some are found by the readers, the others only by the data doctor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from nanogfl.errors import DataError

Severity = Literal["error", "warning", "note"]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Kind:
    """One kind of finding.

    Attributes:
        severity: error: a picture, a box or a score is lost or wrong; warning: it was corrected, or looks like a
            mistake; note: it may be intended, but is good to know.
        phrase: what was found, worded to follow a count: "12 ...".
        fix: what to do.
        fixed: whether the problem is fixed in the cleaned copy.
    """

    severity: Severity
    phrase: str
    fix: str
    fixed: bool = True


@dataclass(frozen=True)
class Finding:
    """One problem: its kind, the file (relative to the dataset's root), the place in it (line, object, id), details."""

    kind: str
    file: str
    where: str
    detail: str


@dataclass
class Findings:
    """The findings so far. If ``lenient`` is set, reading continues after errors that otherwise reject the dataset."""

    lenient: bool = False
    found: list[Finding] = field(default_factory=list)

    def add(self, kind: str, file: str, where: str = "", detail: str = "") -> None:
        """Add one finding."""
        self.found.append(Finding(kind, file, where, detail))

    def attempt(self, file: str, work: Callable[[], Made], otherwise: Made) -> Made:
        """Return the result of the work; if it rejects its file and ``lenient`` is set, note it, return the default."""
        try:
            return work()
        except (DataError, OSError) as error:
            if not self.lenient:
                raise
            self.add("annotation-unreadable", file, "", str(error))
            return otherwise


def listed(unit: str, numbers: Sequence[object], most: int = 20) -> str:
    """Format places in a file: ``lines 3, 7``; if there are more than ``most``, add how many more."""
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return f"{unit}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:most]))}{more}"


KINDS: dict[str, Kind] = {
    # Found by the readers
    "annotation-missing": Kind(
        "error", "listed pictures without an annotation left out", "add the annotation, or take the line off the list"
    ),
    "annotation-unreadable": Kind(
        "error", "annotation files that cannot be read left out", "export the file again, or remove it"
    ),
    "box-clipped": Kind(
        "warning",
        "boxes over the edge of their picture cut to it",
        "cut the box to the picture; if there are many, check units and order of the numbers",
    ),
    "box-in-pixels": Kind(
        "error",
        "boxes left out that look like pixels (YOLO wants fractions of width and height)",
        "divide x and width by the picture's width, y and height by its height",
    ),
    "box-inverted": Kind("error", "boxes with swapped corners left out", "swap the corners, or draw the box again"),
    "box-malformed": Kind("error", "annotations that are no box left out", "draw the box again, or remove the entry"),
    "box-not-finite": Kind("error", "boxes with NaN or infinite sides left out", "draw the box again, or remove it"),
    "box-outside": Kind(
        "error",
        "boxes wholly outside their picture left out",
        "remove the box, or move it; if there are many, check units and order of the numbers",
    ),
    "box-polygon": Kind("note", "label files with polygons, read as the boxes around them", "write boxes"),
    "box-without-area": Kind("error", "boxes without area left out", "draw the box again, or remove it"),
    "class-count": Kind("warning", "lists of another number of classes than they say", "name the missing, or mend nc"),
    "class-renumbered": Kind(
        "warning",
        "lists that number classes otherwise than an earlier one, read by name",
        "number classes alike in all lists",
    ),
    "class-repeated": Kind("warning", "class names listed twice made one class", "list each class once"),
    "class-unknown": Kind("error", "boxes of an unknown class left out", "add the class to the list, or relabel"),
    "id-large": Kind("note", "lists with ids over 32 bits", "number anew: some tools keep 32 bits"),
    "id-repeated": Kind("warning", "annotation ids given twice", "number the annotations anew"),
    "id-text": Kind("note", "lists with ids that are text", "number anew: COCO's tools want integers"),
    "id-zero": Kind("note", "lists with an id 0", "number from 1: pycocotools counts a found annotation 0 as missed"),
    "image-malformed": Kind(
        "error", "entries of pictures without a usable id and file name left out", "give the entry an id and a name"
    ),
    "image-repeated": Kind(
        "error",
        "pictures with an id that others have too left out, with its boxes",
        "give each picture an id of its own",
    ),
    "image-unknown": Kind(
        "error", "boxes of pictures that are not listed left out", "list the picture, or remove the box"
    ),
    "path-corrected": Kind("warning", "paths that are wrong by a level followed", "write the path that was followed"),
    "path-misleading": Kind("note", "annotations that name another file than their picture", "write the file's name"),
    "picture-ambiguous": Kind(
        "error", "pictures whose name may mean several files left out", "write the file's folder before its name"
    ),
    "picture-huge": Kind(
        "error", "pictures of more pixels than are ever decoded left out", "cut it into tiles, or shrink it"
    ),
    "picture-lying": Kind(
        "warning",
        "pictures annotated before EXIF's turn, their boxes turned",
        "save the picture upright and turn its boxes",
    ),
    "picture-merged": Kind(
        "warning", "pictures with several entries made one with all their boxes", "list each picture once"
    ),
    "picture-missing": Kind(
        "error", "pictures whose file is missing left out", "add the picture, or remove its annotation"
    ),
    "picture-outside": Kind(
        "error", "pictures that lie outside the set's folder left out", "copy the picture into the set"
    ),
    "picture-repeated": Kind(
        "warning", "pictures that are listed again left out there", "list each picture once, in one split"
    ),
    "picture-unannotated": Kind(
        "note", "pictures without an annotation", "annotate it, or add an empty annotation where nothing is to be found"
    ),
    "picture-unlabelled": Kind(
        "warning", "pictures of a split without any labels left out", "label the split, or take it off the list"
    ),
    "picture-unlisted": Kind("warning", "pictures that no split lists left out", "add the picture to a list"),
    "picture-unreadable": Kind("error", "pictures that cannot be read left out", "replace or remove the picture"),
    "size-differs": Kind(
        "warning", "annotated picture sizes that are not the file's put right", "write the file's size"
    ),
    "size-missing": Kind("note", "pictures annotated without a size", "write the file's size"),
    "size-scaled": Kind(
        "warning",
        "pictures resized after they were annotated, their boxes with them",
        "write the file's size and boxes",
    ),
    "split-missing": Kind("error", "splits whose place is missing left out", "write where the split's pictures are"),
    # Found by the data doctor only
    "box-contradicted": Kind("warning", "boxes that stand there again as another class", "keep the right one", False),
    "box-crowd": Kind("note", "pictures with crowd regions, which neither train nor punish", "nothing", False),
    "box-duplicate": Kind("warning", "boxes drawn twice", "remove one of the two"),
    "box-tiny": Kind(
        "note", "pictures with boxes too small to learn", "a larger input, tiles, or no such boxes", False
    ),
    "class-imbalance": Kind("note", "sets of very unequal classes", "more pictures of the rare classes", False),
    "class-unnamed": Kind(
        "warning",
        "sets without class names, which become class_0, class_1 ...",
        "write the names, one a line, into classes.txt in the set's folder, or into data.yaml if there is one",
        False,
    ),
    "class-untaught": Kind(
        "warning", "classes that are judged but never taught", "move pictures of the class to train", False
    ),
    "class-unused": Kind("note", "classes without a box", "label some, or take the class off the list", False),
    "class-variant": Kind("warning", "class names that differ only in how they are written", "use one spelling"),
    "folder-unlisted": Kind(
        "note", "folders of pictures that nothing speaks of", "list and annotate its pictures, or move it away"
    ),
    "name-collides": Kind(
        "warning", "file names that are one on some disks or to some readers", "rename one of the files"
    ),
    "name-odd": Kind("note", "file names that some tool will stumble over", "use letters, digits, - and _ only"),
    "picture-duplicate": Kind("warning", "pictures that are there twice", "keep one"),
    "picture-empty": Kind("note", "pictures without objects", "nothing, where there really are none", False),
    "picture-form": Kind("warning", "pictures of a form that is not read", "convert it to JPEG or PNG"),
    "picture-gray": Kind("note", "pictures without colour", "nothing, where pictures in use are grey too", False),
    "picture-large": Kind("note", "pictures that are slow to decode", "shrink it", False),
    "picture-near-duplicate": Kind(
        "note", "pictures nearly the same as another", "keep one, or both in one split", False
    ),
    "picture-rotated": Kind(
        "note", "pictures that only EXIF turns upright", "save the picture upright: some tools ignore EXIF"
    ),
    "picture-suffix": Kind("warning", "pictures whose suffix is another form's", "rename the file"),
    "picture-truncated": Kind("error", "pictures that are cut short or damaged", "replace or remove the picture"),
    "split-leak": Kind("error", "pictures that another split has too", "keep it in one split only"),
}
