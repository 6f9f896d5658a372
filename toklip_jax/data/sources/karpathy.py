"""Retrieval sets in the layout of Karpathy's splits: COCO's 5k test images, Flickr30k's 1k."""

import json
from typing import Any

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.fingerprints import hash_of
from toklip_jax.data.paths import expand_home, join, read_bytes
from toklip_jax.data.sources.base import ENCODED, SourceKind
from toklip_jax.data.sources.records import read_image_bytes

# COCO's annotations have 11 million values, of which 1.6 million are lists and objects. A file may
# be small and take many times its size.
_VALUES, _CONTAINERS = 2**24, 2**22


class KarpathySource:
    """Records of `image` (bytes) and `text`, the first of an image's captions; `texts` gives all.

    The layout is that of `dataset_coco.json` and `dataset_flickr30k.json` (Karpathy and Fei-Fei,
    arXiv:1412.2306): each of its `images` has a `filename`, for COCO also the directory `filepath`,
    a `split`, and `sentences` with their text as `raw`.
    """

    def __init__(self, annotations: str, images: str, split: str = "test", num_captions: int = 5):
        """Reads the annotations.

        Args:
            annotations: path of the JSON file.
            images: directory of the images; for COCO the one above `val2014` and `train2014`.
            split: "test", "val", "train" or, for COCO, "restval".
            num_captions: how many of an image's captions are taken, from the first; the usual
                protocol takes 5, and some of COCO's images have 6 or 7.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it has another layout, no such split (says which), or an image with fewer
                captions (names it).
        """
        if num_captions < 1:
            raise UserError(f"expected num_captions of at least 1, got {num_captions}")
        self.images, self.split = expand_home(images), split
        rows = _read(expand_home(annotations))
        try:
            splits = sorted({row["split"] for row in rows})
            check_name(f"a split of {annotations}", split, splits)
            rows = [row for row in rows if row["split"] == split]
            self._names = [_name(row) for row in rows]
            self._texts = [_captions(row, num_captions, annotations) for row in rows]
        except (KeyError, TypeError, AttributeError) as error:
            raise _wrong_layout(annotations, f"missing or wrong: {error}") from error

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a record.

        Raises:
            BadSample: there is no such image, or it can't be read.
        """
        image = read_image_bytes(join(self.images, self._names[index]))
        return {"image": image, "text": self._texts[index][0]}

    def key(self, index: int) -> str:
        """Returns the path under the directory of images."""
        return self._names[index]

    def identity(self) -> str:
        """Returns a hash of all names and captions."""
        return hash_of([self._names, self._texts])

    def texts(self) -> list[list[str]]:
        """Returns `num_captions` captions per image, in order."""
        return [list(captions) for captions in self._texts]


KARPATHY = SourceKind("karpathy", KarpathySource, ENCODED)


def _read(path):
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise NotFound(
            f"expected annotations of Karpathy's splits, found no file {path}: check the path"
        ) from None
    if data.count(b",") > _VALUES or data.count(b"[") + data.count(b"{") > _CONTAINERS:
        raise UserError(
            f"expected annotations of at most {_VALUES:,} values, of which {_CONTAINERS:,} are "
            f"lists and objects, got more in {path}: leave out what isn't used, such as tokens"
        )
    try:
        rows = json.loads(data)["images"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _wrong_layout(path, error) from error
    if not isinstance(rows, list) or not rows:
        raise _wrong_layout(path, "no images")
    return rows


def _name(row):
    return "/".join(part for part in (row.get("filepath"), row["filename"]) if part)


def _captions(row, number, path):
    captions = [sentence["raw"] for sentence in row["sentences"]][:number]
    if len(captions) < number or not all(caption.strip() for caption in captions):
        raise UserError(
            f"expected {number} captions for each image in {path}, got {captions} for "
            f"{_name(row)}: set num_captions to what every image has"
        )
    return captions


def _wrong_layout(path, problem):
    return UserError(
        f'expected {path} in the layout of dataset_coco.json: {{"images": [{{"filename", "split", '
        f'"sentences": [{{"raw"}}]}}]}} ({problem})'
    )
