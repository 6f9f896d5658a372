"""Helpers of the sources that give records: `image` (encoded bytes), `text`, `label`."""

import contextlib
import errno
from collections.abc import Iterator

from toklip_jax.core.errors import UserError
from toklip_jax.data.health import BadSample
from toklip_jax.data.paths import is_local, read_bytes, size_of_file

MAX_IMAGE_BYTES = 2**30  # of an encoded image; an uncompressed one of 2**26 pixels has half of it
_ABSENT = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
_OF_THE_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # no fault of the sample


def read_image_bytes(path: str) -> bytes:
    """Returns an image's file.

    Raises:
        BadSample: there is none, or it can't be read.
    """
    with errors_are_bad_samples():
        if is_local(path) and size_of_file(path) > MAX_IMAGE_BYTES:
            raise BadSample("too large a file")
        return read_bytes(path)


@contextlib.contextmanager
def errors_are_bad_samples() -> Iterator[None]:
    """Makes a `BadSample` of the errors that reading one file can raise."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_THE_PROCESS:
            raise
        is_absent = error.errno in _ABSENT or isinstance(error, FileNotFoundError)
        raise BadSample("missing image" if is_absent else "unreadable image") from None
    except UserError:
        raise BadSample("an address that can't be opened") from None
    except ValueError as error:  # no file can be called so
        if "null byte" not in str(error) and not isinstance(error, UnicodeError):
            raise
        raise BadSample("missing image") from None
