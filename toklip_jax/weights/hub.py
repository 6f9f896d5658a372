"""Files of the Hugging Face hub, fetched into huggingface_hub's cache, checked and kept there."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from toklip_jax.core.errors import FULL, NotFound, StorageFailed, UserError
from toklip_jax.core.printable import printable
from toklip_jax.files.sharded import INDEX_SUFFIX, SUFFIX, is_index, read_index
from toklip_jax.models.base import registered
from toklip_jax.models.releases import HUB, MAIN, File, Snapshot
from toklip_jax.weights.description import NAME as DESCRIPTION
from toklip_jax.weights.description import file_digest

SHA256 = re.compile(r"[0-9a-f]{64}")
# What the weights of a repository may be, in the order in which they are preferred.
SUFFIXES = (INDEX_SUFFIX, SUFFIX, ".pt", ".pth", ".ckpt", ".npz")


def fetch(snapshot: Snapshot, others: Sequence[Snapshot] = ()) -> pathlib.Path:
    """Returns the path of a snapshot's weights, fetched unless they are in huggingface_hub's cache.

    It is that of the first file, beside which the others are, or of the directory that
    `save_weights` wrote. Sizes are checked always, and hashes after each download: those that are
    known, or else what the hub says the file's is.

    Args:
        others: what is fetched besides, for the list of an error.

    Raises:
        FileNotFoundError: no such file, or no connection; lists all files to fetch by hand.
        ValueError: a repository that isn't there, or whose licence has to be accepted; or a file of
            another size or hash, which is deleted.
    """
    files = list(snapshot.files)
    first = _fetch_file(snapshot, files[0], others)
    if is_index(first):
        files += _unlisted(first, snapshot)
    for file in files[1:]:
        _fetch_file(snapshot, file, others)
    return first.parent if first.name == DESCRIPTION else first


def snapshot_of(repository: str, revision: str | None = None) -> Snapshot:
    """Returns the weights of a repository, as the hub lists its files, at the commit it has now.

    Raises:
        FileNotFoundError: no connection.
        ValueError: no such repository, or none or several weights in it; lists them.
    """
    import huggingface_hub  # slow to import, and needed by the hub only

    with _errors(Snapshot(repository, (), revision), None, ()):
        found = huggingface_hub.HfApi().model_info(
            repository, revision=revision, files_metadata=True
        )
    files = {
        each.rfilename: File(
            each.rfilename, each.size, None if each.lfs is None else each.lfs.sha256
        )
        for each in found.siblings
    }
    top = [file for name, file in files.items() if "/" not in name]
    if DESCRIPTION in files:  # a directory that `save` or `convert to-jax` wrote
        return Snapshot(repository, tuple(sorted(top, key=_is_not_description)), found.sha)
    weights = _weights_among(list(files))
    if len(weights) != 1:
        raise several(repository, revision, weights)
    beside = {name for family in registered() for name in family.files}
    kept = [file for file in top if file.name in beside] if "/" not in weights[0] else []
    return Snapshot(repository, (files[weights[0]], *kept), found.sha)


def several(repository: str, revision: str | None, names: Sequence[str]) -> UserError:
    """Returns the error for a repository whose weights have to be chosen, or which has none."""
    at = f"@{revision}" if revision else ""
    listed = ", ".join(f"hf://{repository}{at}/{printable(name)}" for name in names[:8])
    return UserError(
        f"expected one file of weights in {HUB}/{repository}, got "
        + (f"{len(names)}: name one of {listed}" if names else "none that is read here")
    )


def _weights_among(names):
    """Those of a repository's files that are weights, of the kind that is preferred."""
    for suffix in SUFFIXES:
        if found := [name for name in names if name.endswith(suffix)]:
            return sorted(found)
    return []


def _is_shard(file):
    return file.name.endswith(SUFFIX)


def _is_not_description(file):
    return file.name != DESCRIPTION


def _unlisted(index, snapshot):
    """The files that an index names and a snapshot doesn't."""
    folder = pathlib.PurePosixPath(snapshot.files[0].name).parent
    paths = [str(folder / shard) for shard in read_index(index)]
    known = {file.name for file in snapshot.files}
    return [File(path) for path in paths if path not in known]


def _fetch_file(snapshot, file, others):
    import huggingface_hub  # slow to import, and needed by the hub only

    revision = snapshot.revision or MAIN
    before = huggingface_hub.try_to_load_from_cache(
        snapshot.repository, file.name, revision=revision
    )
    with _errors(snapshot, file, others):
        path = huggingface_hub.hf_hub_download(snapshot.repository, file.name, revision=revision)
    _check(pathlib.Path(path), snapshot, file, is_new=path != before)
    return pathlib.Path(path)


def _check(path, snapshot, file, is_new):
    """Deletes a file that is not what was published, and raises ValueError."""
    size = path.stat().st_size
    expected, got = file.shown_size or "its size", f"{size:,} bytes"
    is_right = file.has_size(size)
    if is_right and is_new and (digest := file.sha256 or _announced(path)):
        expected, got = f"the SHA-256 {digest}", file_digest(path)
        is_right = got == digest
    if is_right:
        return
    _delete(path)
    again = (
        ""
        if snapshot.revision
        else (
            f", or, if its authors have changed it since, load 'hf://{snapshot.repository}@COMMIT/"
            f"{file.name}' with the commit that you trust"
        )
    )
    raise UserError(
        f"expected {expected} of {file.name} from {snapshot.url(file)}, got {got}; the file was "
        f"deleted: load again{again}"
    )


def _announced(path):
    """The hash that the hub said a file has, by which its cache names it; None where it has not."""
    name = pathlib.PurePath(os.readlink(path)).name if path.is_symlink() else ""
    return name if SHA256.fullmatch(name) else None


def _delete(path):
    blob = path.resolve()
    path.unlink()
    blob.unlink(missing_ok=True)


@contextlib.contextmanager
def _errors(snapshot, file, others) -> Iterator[None]:
    """Turns what huggingface_hub raises into one error that says what to do.

    Args:
        file: what is fetched; None for the list of a repository's files.
    """
    from huggingface_hub import errors

    repository, what = snapshot.repository, file.name if file else "the list of files"
    page = f"{HUB}/{repository}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(_gated(page)) from error
    except errors.RevisionNotFoundError as error:
        raise NotFound(
            f"expected the commit or branch {snapshot.revision or MAIN!r} of {page}, found none: "
            f"check it there"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFound(
            f"expected a local path, or a public model at {page}, found neither: check the name, "
            f"or, if it is private, log in with `hf auth login`"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise NotFound(f"expected {what} in {page}, found none: check the name there") from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise UserError(_gated(page)) from error
        raise StorageFailed(
            f"expected {what} of {page}, got an error of the server "
            f"({error.response.status_code}): try again later"
        ) from error
    except (
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        errors.HTTPError,
    ) as error:
        raise NotFound(_offline(snapshot, what, others)) from error
    except OSError as error:
        if error.errno in FULL or error.filename is not None:
            raise  # the disk's, in a line of its own
        raise StorageFailed(
            f"expected {what} of {page} whole, got a download cut short ({printable(error)}): load "
            f"again"
        ) from error


def _gated(page):
    return (
        f"expected access to {page}, got none: accept the licence on that page, log in with `hf "
        f"auth login` or set HF_TOKEN, and load again"
    )


def _offline(snapshot, what, others):
    head = (
        f"expected {what} of {HUB}/{snapshot.repository} in huggingface_hub's cache or from the "
        f"hub, got neither (offline, or the hub does not answer)"
    )
    parts = (snapshot, *others)
    lines = [
        f"{part.url(file)}" + (f" ({file.shown_size})" if file.shown_size else "")
        for part in parts
        for file in part.files
    ]
    if not lines:
        return f"{head}: name a file, as hf://{snapshot.repository}/FILE, or pass a local path"
    if is_index(snapshot.files[0].name) and not any(map(_is_shard, snapshot.files)):
        lines.append("and the files that the index names")
    lines = "".join(f"\n  {line}" for line in lines)
    return f"{head}: fetch these files by hand,{lines}\nand {_by_hand(parts)}"


def _by_hand(parts):
    """What to do with files that were fetched by hand."""
    weights, *others = parts
    names = [pathlib.PurePosixPath(part.files[0].name).name for part in parts]
    path = "DIRECTORY" if len(weights.files) > 1 else f"DIRECTORY/{names[0]}"
    tokenizer = f', tokenizer="DIRECTORY/{names[1]}"' if others else ""
    return f'put them in one directory, then load("{path}"{tokenizer})'
