"""Encodes a data source once, for training that needs neither pixels nor the frozen towers:

    toklip encode --config=toklip_s_256 --output=CACHE [--workdir=RUN]
    toklip encode --output=CACHE --parquet=DIR [--id-offset=N]

The second exports an existing cache; `--parquet` together with `--config` does both. With
`--parquet-layout=messages` the rows are conversations (docs/conversations.md). Those of a JSON file
are written, with the ids of their images, by

    toklip encode --conversations=FILE.json --images=DIR --tokenizer=WEIGHTS \\
        --parquet=DIR
"""

import functools
from collections.abc import Sequence

import jax

from toklip_jax.api import load
from toklip_jax.cli import command_line
from toklip_jax.cli.folder import model_image_size
from toklip_jax.core.errors import UserError
from toklip_jax.core.parser import Parser, file_path, not_negative
from toklip_jax.data.cache import expect_complete, export_parquet
from toklip_jax.data.conversations.export import (
    IMAGE_FIRST,
    ORDERS,
    MessagesLayout,
    export_messages,
)
from toklip_jax.data.conversations.images import Pixels
from toklip_jax.data.conversations.llava import LlavaSource
from toklip_jax.data.conversations.messages import TRAIN
from toklip_jax.parallel.hosts import is_main_host
from toklip_jax.run.encode import encode
from toklip_jax.run.encode_conversations import encode_conversations

COLUMNS, MESSAGES = "columns", "messages"
# Flags that only one kind of input has.
OF_CACHES = ("output", "workdir", "id_offset", "parquet_order")
OF_CONVERSATIONS = ("images", "tokenizer", "image_size")


def main(arguments: Sequence[str]) -> int:
    """Parses, encodes, exports; returns the exit status (see `core.errors`)."""
    return command_line.run(arguments, parser(), _prepare)


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = command_line.config_parser("encode", __doc__, is_required=False)
    found.flag("output", "the cache's directory", type=file_path)
    found.flag("workdir", "the run whose stages are used", default="")
    found.flag("parquet", "a directory to export the cache to", default="")
    found.flag("id-offset", "added to ids in Parquet", type=not_negative, default=0)
    found.flag("parquet-layout", "what a row is", default=COLUMNS, choices=(COLUMNS, MESSAGES))
    found.flag("parquet-order", "of image and caption", default=IMAGE_FIRST, choices=ORDERS)
    found.flag("parquet-split", "train, or eval-NAME", default=TRAIN)
    found.flag("task-type", "of the rows of eval-NAME", default="")
    found.flag("conversations", "a JSON file of conversations", default="")
    found.flag("images", "the folder of their images", default="")
    found.flag("tokenizer", "the weights that turn them into ids", default="")
    found.flag("image-size", "their side in pixels; 0: the model's", type=not_negative, default=0)
    return found


def _prepare(values, experiment):
    if values.conversations:
        _expect_given(values, "of conversations", ("tokenizer", "parquet"), OF_CACHES)
        if experiment is not None:
            raise UserError("expected --conversations without --config, got both: leave one out")
        _layout(values)
        return functools.partial(_write_conversations, values)
    if values.output is None:
        raise UserError("expected --output=..., got none")
    if experiment is None and not values.parquet:
        raise UserError("expected --config to encode by or --parquet to export to, got neither")
    if experiment is None and values.workdir:
        raise UserError(
            f"expected --workdir with --config only, got {values.workdir!r}: an export uses no "
            f"run, so leave it out"
        )
    if values.id_offset and not values.parquet:
        raise UserError(
            f"expected --id-offset with --parquet only, got {values.id_offset}: a cache holds ids "
            f"as they are, so leave it out"
        )
    _expect_given(values, "of caches", (), OF_CONVERSATIONS)
    if values.parquet_layout == MESSAGES:
        _expect_given(values, "of that layout, whose ids are as they are", (), ("id_offset",))
        _layout(values)
    else:
        of_messages = ("parquet_order", "parquet_split", "task_type")
        _expect_given(values, "without --parquet-layout=messages", (), of_messages)
    return functools.partial(_work, values, experiment)


def _expect_given(values, what, needed, others) -> None:
    """Checks that flags are given which are needed, and none that would have no effect."""
    for name in needed:
        if not getattr(values, name):
            raise UserError(f"expected {_flag(name)}=... for Parquet files {what}, got none")
    for name in others:
        if (given := getattr(values, name)) != parser().get_default(name):
            raise UserError(
                f"expected no {_flag(name)} for Parquet files {what}, got {given!r}: leave it out"
            )


def _flag(name):
    return f"--{name.replace('_', '-')}"


def _layout(values) -> MessagesLayout:
    return MessagesLayout(
        order=values.parquet_order, split=values.parquet_split, task_type=values.task_type
    )


def _work(values, experiment) -> None:
    shares = {"host": jax.process_index(), "hosts": jax.process_count()}
    if experiment is not None:
        header = encode(experiment, values.output, values.workdir, **shares)
        expect_complete(header, values.output)
        if is_main_host():
            size = sum(path.stat().st_size for path in values.output.iterdir())
            print(
                f"{values.output}: {header.num_samples} samples in {header.num_shards} shards, "
                f"{size / 2**20:,.1f} MiB"
            )
    if values.parquet:
        if values.parquet_layout == MESSAGES:
            layout = _layout(values)
            files, left_out = export_messages(values.output, values.parquet, layout, **shares)
            if left_out:
                print(f"{values.output}: left out {left_out} images with empty or unfit captions")
        else:
            files = export_parquet(values.output, values.parquet, values.id_offset, **shares)
        print(f"{values.parquet}: wrote {len(files)} Parquet files")


def _write_conversations(values) -> None:
    size = {"image_size": values.image_size} if values.image_size else {}
    model = load(values.tokenizer, **size)
    sides = values.image_size or model_image_size(model)
    if sides is None:
        raise UserError(
            f"expected --image-size with a VQ tokenizer, which takes several, got none for "
            f"{values.tokenizer}: set it"
        )
    files, bad = encode_conversations(
        LlavaSource(values.conversations, values.images or None),
        Pixels(sides),
        model.tokenize,
        values.parquet,
        split=values.parquet_split,
        task_type=values.task_type,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    if bad.counts:
        print(f"left out {bad.report()}")
    print(f"{values.parquet}: wrote {len(files)} Parquet files")
