"""Maps a data set's labels to the rows of a class list.

Data sets number the same classes differently: TFDS labels ImageNet-A and ImageNet-R by place among
ImageNet's 1000 classes, of which only 200 are asked for; its `imagenet_resized` has an order of its
own; a folder's classes are sorted as text, so that ImageNet-v2's directories "0" to "999" come as
0, 1, 10, 100.
"""

import re
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from toklip_jax.core.errors import UserError
from toklip_jax.data.text import canonicalize
from toklip_jax.evaluation.prompt_sets import CLASS_LISTS, ClassList, class_names
from toklip_jax.metrics import AnyArray

NO_ROW = -1
_WNID = re.compile(r"n\d{8}")


def label_map(
    classes: ClassList, source_classes: Sequence[str] | None, source: str = "the data set"
) -> Int[np.ndarray, " labels"]:
    """Returns the row in `classes` of each label, `NO_ROW` for a label that is none of them.

    What the data set calls its classes decides:
      - nothing known: labels are rows;
      - WordNet ids, with a list of ImageNet's: by id, and the data set may have more classes;
      - the numbers from 0 on, in any order: by number;
      - the names of the list, in any order: by name, apart from case, punctuation and "_";
      - none of the names: by place.

    Args:
        classes: see `class_names`.
        source_classes: the source's `classes`: what each label stands for. For labels among
            ImageNet's 1000 classes in a source that doesn't know, `class_names("imagenet").wnids`.
        source: the data set's name, for the message.

    Raises:
        ValueError: the numbers of classes differ, a class of the list is not in the data set, or
            only some of the names agree; says which.
    """
    if source_classes is None:
        return np.arange(len(classes), dtype=np.int32)
    if classes.wnids is not None and all(map(_WNID.fullmatch, source_classes)):
        return _by_wnid(classes, source_classes, source)
    if len(source_classes) != len(classes):
        raise _wrong_number(classes, source_classes, source)
    numbers = [int(name) if name.isdecimal() else NO_ROW for name in source_classes]
    if sorted(numbers) == list(range(len(classes))):
        return np.array(numbers, np.int32)
    return _by_name(classes, source_classes, source)


def label_rows(
    labels: Int[AnyArray, " b"], rows: Int[np.ndarray, " labels"], source: str = "the data set"
) -> Int[np.ndarray, " b"]:
    """Returns the row of each label by a `label_map`.

    Raises:
        ValueError: a label outside the map, or one that is no class of the list; says which.
    """
    labels = np.asarray(labels)
    remedy = "pass classes=... with a name for each of its classes"
    _expect_within(labels, len(rows), source, remedy)
    found = rows[labels]
    if np.any(found == NO_ROW):
        raise UserError(
            f"expected labels of {source} among the {np.count_nonzero(rows != NO_ROW)} classes "
            f"that are asked for, got {labels[found == NO_ROW][0]}, which is another: pass "
            f"classes=... with all of its classes"
        )
    return found


def labels_by_name(
    labels: Int[AnyArray, " b"],
    own: Sequence[str] | None,
    others: Sequence[str] | None,
    source: str = "the test images",
) -> Int[np.ndarray, " b"]:
    """Returns labels of one data set as another numbers its classes, by their names.

    Args:
        own: the classes of the labels' data set; None where it doesn't know, and then the labels
            stay as they are, after a warning, as they do where the other doesn't know.
        others: those of the other data set.
        source: the labels' data set, for the message.

    Raises:
        ValueError: a label of no class, or whose class the other data set doesn't have; names it.
    """
    labels = np.asarray(labels)
    expect_labels(labels, own, source)
    if own is None or others is None:
        warnings.warn(
            "labels of the training and the test images are compared by their numbers, as not both "
            "data sets know the names of their classes: see to it that both number them alike",
            stacklevel=2,
        )
        return labels
    if tuple(own) == tuple(others):
        return labels
    places = {name: place for place, name in enumerate(others)}
    if unknown := [own[label] for label in np.unique(labels) if own[label] not in places]:
        raise UserError(
            f"expected the classes of {source} among the {len(others)} of the training images, got "
            f"{len(unknown)} others, such as {unknown[0]!r} beside {others[0]!r}: name them alike, "
            f"or leave those images out"
        )
    return np.array([places.get(name, NO_ROW) for name in own], np.int32)[labels]


def expect_labels(labels: Int[AnyArray, " b"], classes: Sequence[str] | None, source: str) -> None:
    """Checks that labels are places among a data set's classes, or at least not negative.

    Raises:
        ValueError: one is not, such as -1, which many data sets have for images without a label.
    """
    most = np.iinfo(np.int64).max if classes is None else len(classes)
    _expect_within(np.asarray(labels), most, source, "leave images without a label out")


def expect_names(source_classes: Sequence[str], source: str = "the data set") -> None:
    """Checks that a data set's own classes can stand in a prompt; warns of mere numbers.

    Raises:
        ValueError: they are WordNet ids, which no text encoder has learned.
    """
    if all(map(_WNID.fullmatch, source_classes)):
        raise UserError(
            f"expected names of classes for the prompts, got the WordNet ids of {source}, such as "
            f"{source_classes[0]}: pass classes='imagenet', with a directory for each of its "
            f"classes, or a text file with a name a line, in the order of the ids"
        )
    if all(name.isdecimal() for name in source_classes):
        warnings.warn(
            f"the classes of {source} are called by numbers, such as {source_classes[0]}, and so "
            f"are they in the prompts: unless they show numbers, {_advice(source_classes)}",
            stacklevel=2,
        )


def _expect_within(labels, number, source, remedy):
    outside = labels[(labels < 0) | (labels >= number)]
    if len(outside):
        wanted = f"in [0, {number})" if number < np.iinfo(np.int64).max else "of at least 0"
        raise UserError(f"expected labels of {source} {wanted}, got {outside[0]}: {remedy}")


def _by_wnid(classes, source_classes, source):
    if missing := sorted(set(classes.wnids) - set(source_classes)):
        if len(source_classes) != len(classes):
            raise _wrong_number(classes, source_classes, source)
        raise UserError(
            f"expected the classes of {classes.name} in {source}, found no {missing[0]} (and "
            f"{len(missing) - 1} more): {_advice(source_classes)}"
        )
    row = {wnid: place for place, wnid in enumerate(classes.wnids)}
    return np.array([row.get(wnid, NO_ROW) for wnid in source_classes], np.int32)


def _by_name(classes, source_classes, source):
    ours, theirs = (list(map(_plain, names)) for names in (classes.names, source_classes))
    if ours == theirs or not set(ours) & set(theirs):
        return np.arange(len(classes), dtype=np.int32)
    row = {name: place for place, name in enumerate(ours)}
    if len(row) == len(ours) and sorted(ours) == sorted(theirs):
        return np.array([row[name] for name in theirs], np.int32)
    moved = [name for place, name in enumerate(theirs) if name in row and ours[place] != name]
    if not moved:  # some are only worded otherwise
        return np.arange(len(classes), dtype=np.int32)
    raise UserError(
        f"expected the class names of {classes.name} in the order of the classes of {source}, or "
        f"all of them in another, got some that agree, of which {moved[0]!r} stands elsewhere: "
        f"{_advice(source_classes)}"
    )


def _wrong_number(classes, source_classes, source):
    number = len(source_classes)
    return UserError(
        f"expected {number} class names for the {number} classes of {source}, got {len(classes)} "
        f"of {classes.name}: {_advice(source_classes)}"
    )


def _advice(source_classes):
    found = set(source_classes)
    fitting = [name for name in CLASS_LISTS if found >= set(class_names(name).wnids)]
    if fitting:
        return f"pass classes={' or '.join(map(repr, fitting))}"
    first = ", ".join(source_classes[:3])
    return f"pass classes= a text file with a name a line, in the order of {first}, ..."


def _plain(name):
    return canonicalize(name) or name  # a name may be punctuation alone
