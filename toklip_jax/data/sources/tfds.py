"""Data sets of TensorFlow Datasets as ArrayRecord, read without TensorFlow."""

import contextlib
from typing import Any

import numpy as np

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.health import BadSample
from toklip_jax.data.paths import expand_home
from toklip_jax.data.record_files import count_records
from toklip_jax.data.sources.base import ENCODED, SourceKind


class TfdsSource:
    """Records of `image` (encoded, as stored), and `text` and `label` where named.

    Attributes:
        classes: the name of each label ("0", "1", ... if the data set says only how many there
            are); None without a label, or if it isn't a class.
        has_labels: whether a feature of labels is named.
    """

    def __init__(
        self,
        directory: str | None = None,
        split: str = "train",
        name: str | None = None,
        data_dir: str | None = None,
        image: str = "image",
        text: str | None = None,
        label: str | None = None,
    ):
        """Opens a data set that was prepared with `file_format="array_record"`.

        Args:
            directory: where one version is, such as ".../pairs/1.0.0"; the builder's code isn't
                needed.
            name: instead of `directory`, the name of a registered builder, whose data sets are in
                `data_dir`.
            image: name of the feature with the encoded image; it isn't decoded here.
            text: name of the feature with the captions; None for none.
            label: name of the feature with integers; None for none.

        Raises:
            FileNotFoundError: there is no data set.
            ValueError: no or both of `directory` and `name`, a split or feature that isn't there,
                a feature of another type, or a file format without random access.
        """
        if (directory is None) == (name is None):
            raise UserError(f"expected directory or name, got {directory!r} and {name!r}")
        directory, data_dir = (path and expand_home(path) for path in (directory, data_dir))
        with _library_errors(directory, name, split):
            builder = _builder(directory, name, data_dir)
            self.features = _features(image, text, label)
            self._rows = _rows(builder, split, self.features)
        self.name, self.split, self._full_name = builder.name, split, builder.info.full_name
        self.classes, self.has_labels = _classes(builder, label), label is not None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a record.

        Raises:
            BadSample: it is damaged.
        """
        row = self._row(index)
        return {field: row[feature] for field, feature in self.features.items()}

    def key(self, index: int) -> str:
        """Returns the data set's name, the split and the row."""
        return f"{self.name}/{self.split}:{index}"

    def identity(self) -> list[str]:
        """Returns the data set's name with its version, and the split."""
        return [self._full_name, self.split]

    def _row(self, index):
        try:
            return self._rows[index]
        except (OSError, MemoryError):
            raise
        except Exception:  # of the record's reader, or of the parsers of its features
            raise BadSample("damaged record") from None


TFDS = SourceKind("tfds", TfdsSource, ENCODED)

_EXPECTED = {"image": "images", "text": "texts", "label": "whole numbers"}
_KINDS = {"text": "OSU", "label": "iub"}  # of numpy's types


def _builder(directory, name, data_dir):
    import tensorflow_datasets as tfds

    if directory is not None:
        return tfds.builder_from_directory(directory)
    builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    if not builder.info.splits:
        raise _absent(None, name, f"no splits in {builder.data_dir}")
    return builder


@contextlib.contextmanager
def _library_errors(directory, name, split):
    """Makes errors of the user of what TFDS raises of a name, a split or a damaged directory."""
    import tensorflow_datasets as tfds

    absent = (
        FileNotFoundError,
        tfds.core.registered.DatasetNotFoundError,
        tfds.core.dataset_info.DatasetInfoFileError,
    )
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if isinstance(error, absent):
            raise _absent(directory, name, reason) from error
        raise UserError(
            f"expected a complete TFDS data set at {directory or name} with the split {split}, but "
            f"TFDS fails ({reason}): correct the name or the split, or prepare it again"
        ) from error


def _absent(directory, name, reason) -> NotFound:
    remedy = "name the directory of its version" if directory else "set data_dir to where it is"
    return NotFound(
        f"expected a prepared data set at {directory or name}, found none ({reason}): {remedy}"
    )


def _features(image, text, label) -> dict[str, str]:
    fields = {"image": image, "text": text, "label": label}
    return {field: feature for field, feature in fields.items() if feature is not None}


def _rows(builder, split, features):
    import tensorflow_datasets as tfds

    check_name(f"a split of {builder.name}", split.split("[")[0], builder.info.splits)
    for feature in features.values():
        check_name(f"a feature of {builder.name}", feature, builder.info.features)
    for field, feature in features.items():
        found = builder.info.features[feature]
        if not _is_fit(field, found):
            raise UserError(
                f"expected {_EXPECTED[field]} in the feature {feature!r} of {builder.name}, got "
                f"{type(found).__name__}: name another feature"
            )
    decoders = {features["image"]: tfds.decode.SkipDecoding()}
    try:
        rows = builder.as_data_source(split, decoders=decoders)
    except NotImplementedError as error:
        raise UserError(
            f"expected {builder.name} in a format of random access: prepare it with "
            f'file_format="array_record"'
        ) from error
    _check_files(builder.info.splits[split.split("[")[0]])
    return rows


def _check_files(split):
    """Checks that a split's files are there and have as many records as it says."""
    for path, number in zip(split.filepaths, split.shard_lengths, strict=True):
        if (found := count_records(str(path))) != number:
            raise UserError(
                f"expected {number} records in {path}, got {found}: fetch it again, or prepare the "
                f"data set again"
            )


def _classes(builder, label):
    feature = None if label is None else builder.info.features[label]
    if getattr(feature, "num_classes", None) is None:
        return None
    return tuple(feature.names)


def _is_fit(field, feature):
    import tensorflow_datasets as tfds

    if field == "image":
        return isinstance(feature, tfds.features.Image)
    is_scalar = isinstance(feature, tfds.features.Tensor) and feature.shape == ()
    return is_scalar and np.dtype(feature.np_dtype).kind in _KINDS[field]
