"""FID: the Frechet Inception distance between two sets of images; rFID where one is reconstructed.

Reference statistics are kept in the layout of the ADM evaluator's .npz files: `mu` [2048], `sigma`
[2048, 2048], and `mu_s` [2023], `sigma_s` for sFID (arXiv 2103.03841).
"""

import dataclasses
import os
import pathlib
import zipfile

import numpy as np

from toklip_jax.core.errors import AlreadyExists, NotFound, UserError
from toklip_jax.core.home import expand_user
from toklip_jax.files.stored_zip import ShortReads
from toklip_jax.metrics import Frechet, Gaussian, frechet_distance

MAX_BYTES = 2**28  # of an array: 5,792 features in float64; Inception's are 2,048
MAX_ASYMMETRY = 1e-3  # of a covariance, against its largest entry: half precision's


@dataclasses.dataclass(frozen=True)
class Reference:
    """Statistics of a set of images.

    Attributes:
        pool: statistics of the pooled features.
        spatial: statistics of the spatial features, or None.
    """

    pool: Gaussian
    spatial: Gaussian | None = None


def fid(images: Frechet, reference: Frechet | Reference) -> float:
    """Returns the distance between the pooled features of images and of a reference.

    It is biased upwards, the more so the fewer the images: compare figures of equally many (papers
    take 50,000), and trust none of fewer than the features' 2048 dimensions.

    Raises:
        ValueError: fewer than two images, or features of other dimensions.
    """
    pool = reference.pool if isinstance(reference, Reference) else reference.statistics()
    return frechet_distance(images.statistics(), pool)


def sfid(images: Frechet, reference: Frechet | Reference) -> float:
    """Returns the distance between the spatial features of images and of a reference.

    Raises:
        ValueError: as `fid` does, or the reference has no spatial statistics.
    """
    if not isinstance(reference, Reference):
        return frechet_distance(images.statistics(), reference.statistics())
    if reference.spatial is None:
        raise UserError("expected spatial statistics (mu_s, sigma_s), got a reference without")
    return frechet_distance(images.statistics(), reference.spatial)


def read_statistics(path: str | pathlib.Path) -> Reference:
    """Reads statistics from an .npz in the ADM evaluator's layout; `mu_s`, `sigma_s` are optional.

    Images stored beside them (`arr_0`) are not read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or one whose statistics are missing or malformed.
    """
    path = expand_user(path)
    if not path.is_file():
        raise NotFound(f"expected reference statistics at {path}, found nothing")
    if not zipfile.is_zipfile(path):
        raise UserError(f"expected an .npz of reference statistics, got another file: {path}")
    with ShortReads(path) as file, _open_npz(file, path) as data:
        pool = _gaussian(data, path, "mu", "sigma")
        if pool is None:
            raise UserError(
                f"expected mu and sigma in {path}, found {', '.join(data.files) or 'nothing'}: "
                f"take a file of statistics, or write one with `write_statistics`"
            )
        return Reference(pool, _gaussian(data, path, "mu_s", "sigma_s"))


def write_statistics(path: str | pathlib.Path, reference: Reference) -> None:
    """Writes an .npz that the ADM evaluator reads too, if it has both kinds; whole or not at all.

    Raises:
        FileExistsError: `path` exists.
        ValueError: another ending.
    """
    path = pathlib.Path(path)
    if path.suffix != ".npz":
        raise UserError(f"expected a path ending in .npz, got {path}")
    if path.exists():
        raise AlreadyExists(f"expected a new file, got {path}, which exists: choose another name")
    arrays = {"mu": reference.pool.mean, "sigma": reference.pool.covariance}
    if reference.spatial is not None:
        arrays |= {"mu_s": reference.spatial.mean, "sigma_s": reference.spatial.covariance}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        np.savez(temporary, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _open_npz(file, path):
    try:
        return np.load(file, allow_pickle=False)
    except Exception as error:  # zipfile and numpy raise whatever damage makes of them
        raise UserError(f"{path} is damaged: {error}: fetch it again") from error


def _gaussian(data, path, mean_name, covariance_name) -> Gaussian | None:
    """Two of a file's arrays, checked, in float64; None if both are missing."""
    names = (mean_name, covariance_name)
    if not any(name in data.files for name in names):
        return None
    if missing := [name for name in names if name not in data.files]:
        raise UserError(f"expected {mean_name} and {covariance_name} in {path}, {missing} missing")
    _expect_small(data.zip, path, names)
    try:
        mean, covariance = (_numbers(data[name]) for name in names)
    except Exception as error:  # zipfile and numpy raise whatever damage makes of them
        raise UserError(f"{path} is damaged or holds no numbers: {error}") from error
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape or not mean.size:
        raise UserError(
            f"expected {mean_name} [d] and {covariance_name} [d, d] in {path}, got {mean.shape} "
            f"and {covariance.shape}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"expected finite {mean_name} and {covariance_name} in {path}, got others")
    if np.abs(covariance - covariance.T).max() > MAX_ASYMMETRY * np.abs(covariance).max():
        raise UserError(
            f"expected a covariance in {path}, got a {covariance_name} that is not symmetric"
        )
    if np.diagonal(covariance).min() < 0:
        raise UserError(
            f"expected a covariance in {path}, got a {covariance_name} with a negative variance"
        )
    return Gaussian(mean, covariance)


def _expect_small(archive, path, names):
    """Checks how large arrays become: compressed zeros take a thousandth."""
    for info in archive.infolist():
        if info.filename.removesuffix(".npy") in names and info.file_size > MAX_BYTES:
            raise UserError(
                f"expected statistics of at most {MAX_BYTES} bytes in {path}, got {info.file_size} "
                f"of {info.filename}: take a file of fewer features"
            )


def _numbers(array):
    if array.dtype.kind not in "fiu":
        raise UserError(f"expected numbers, got {array.dtype}")
    return np.asarray(array, np.float64)
