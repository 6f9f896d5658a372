"""The command `toklip convert`: inspect, to-jax, to-torch, verify, start."""

import argparse
import collections
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import flax.traverse_util
import numpy as np

from toklip_jax.cli.running import plain_parser, run_plain
from toklip_jax.core.errors import AlreadyExists, NotFound, UserError
from toklip_jax.core.home import expand_user
from toklip_jax.core.parser import Parser, file_path
from toklip_jax.core.printable import printable, printable_lines
from toklip_jax.data.text import TextTokenizer
from toklip_jax.files import lazy_stack
from toklip_jax.models.multimodal.config import MultimodalConfig
from toklip_jax.models.registry import Hints, VQConfig, family_of, recognise
from toklip_jax.models.serialization import config_to_dict
from toklip_jax.tasks.toklip.start import start_toklip
from toklip_jax.weights import Weights, load_weights, save_weights
from toklip_jax.weights.checkpoint_file import Checkpoint, read_checkpoint
from toklip_jax.weights.checks import naming
from toklip_jax.weights.conversion import (
    carried_reasons,
    convert_checkpoint,
    export_tensors,
)
from toklip_jax.weights.directory import is_weights
from toklip_jax.weights.hugging_face import has_settings, write_hugging_face
from toklip_jax.weights.llava import llava_tensors
from toklip_jax.weights.read import expect_no_hints, is_converted, other_choice
from toklip_jax.weights.vq_part import describe_vq, expect_joined, join_vq
from toklip_jax.weights.writer import write_checkpoint

FILES = (".safetensors", ".pt")  # that `to-torch` writes
MAX_NAMES = 40  # in a list of ignored or differing tensors
MAX_ALONE = 4  # tensors of one reason that are listed one by one


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns the exit status: 0, or 2 for what the user can fix."""
    return run_plain(arguments, parser(), lambda args: args.run(args), is_connected=False)


def inspect(args: argparse.Namespace) -> int:
    """Prints what a file or directory contains."""
    if args.vq is None and is_converted(args.file):
        expect_no_hints(_hints(args), args.file, _is_ema(args))
        weights = load_weights(args.file)
        print(f"{args.file}: converted weights ({printable(weights.source)})")
        print(f"layout: {'scanned' if weights.is_scanned else 'unrolled'}")
        _print_arrays(flax.traverse_util.flatten_dict(weights.params, sep="/"))
        _print_config(weights.config)
        _print_lines(describe_vq(weights))
        return 0
    checkpoint, hints, vq = _read_joined(args, say=_print_file)
    with naming(checkpoint.file.path):
        recognised = recognise(checkpoint.tensors, hints.family)
    _print_groups("ignored", recognised.dropped)
    names = f", in {recognised.names}" if recognised.names else ""
    print(f"family: {recognised.family.title}{names}")
    weights = convert_checkpoint(checkpoint, hints, expects_finite=False)
    if vq is not None:
        expect_joined(weights, vq)
    _print_config(weights.config)
    _print_lines(describe_vq(weights))
    return 0


def to_jax(args: argparse.Namespace) -> int:
    """Converts a PyTorch file into a directory."""
    _expect_new(args.out)
    if args.vq is None:
        weights = _read(args.file, _hints(args), _is_ema(args))
    else:
        checkpoint, hints, vq = _read_joined(args)
        weights = convert_checkpoint(checkpoint, hints)
        expect_joined(weights, vq)
    if args.tokenizer:
        weights = _with_tokenizer(weights, args.tokenizer)
    weights = weights.with_layout(args.layout == "scanned", lazy_stack)
    _print_groups("kept, to be written back", carried_reasons(weights))
    save_weights(args.out, weights)
    print(f"wrote {args.out}: {printable(weights.source)}")
    return 0


def to_torch(args: argparse.Namespace) -> int:
    """Converts a directory into a PyTorch file, or a language model's into transformers' form.

    A multimodal model's file has LLaVA's names: the language model, LoRA's additions in its
    kernels, and its projector.
    """
    weights = load_weights(args.directory)
    if isinstance(weights.config, MultimodalConfig):
        write_checkpoint(args.out, llava_tensors(weights), weights.release)
    elif args.out.suffix not in FILES and has_settings(weights):
        write_hugging_face(args.out, weights)
    else:
        write_checkpoint(args.out, export_tensors(weights), weights.release)
    print(f"wrote {args.out}")
    return 0


def verify(args: argparse.Namespace) -> int:
    """Compares a PyTorch file with a converted directory, tensor by tensor, bit for bit."""
    checkpoint, hints, _ = _read_joined(args)
    weights = load_weights(args.directory)
    with naming(checkpoint.file.path):
        expected = recognise(checkpoint.tensors, hints.family).tensors
    got = export_tensors(weights)
    faults = [f"only in {args.file}: {printable(name)}" for name in expected if name not in got]
    faults += [f"only in {args.directory}: {name}" for name in got if name not in expected]
    for name in sorted(expected.keys() & got):
        if not _is_same(expected[name], got[name]):
            faults.append(f"differs: {printable(name)}")
        checkpoint.file.release()
        weights.release()
    if faults:
        more = [f"and {len(faults) - MAX_NAMES} more"] if len(faults) > MAX_NAMES else []
        raise UserError("\n  ".join([f"{len(faults)} tensors differ:", *faults[:MAX_NAMES], *more]))
    print(f"bit-exact: {len(expected)} tensors")
    return 0


def start(args: argparse.Namespace) -> int:
    """Writes the weights that TokLIP's training starts from, of a teacher and a VQ tokenizer."""
    _expect_new(args.out)
    files = [path for path in (args.teacher, args.vq) if not is_converted(path)]

    def read(path, hints):
        is_chosen = path in files or not files  # a directory needs no --weights beside a file
        return _read(path, hints, _is_ema(args) if is_chosen else None)

    teacher = read(args.teacher, Hints(args.num_heads, args.text_num_heads))
    if args.tokenizer:
        teacher = _with_tokenizer(teacher, args.tokenizer)
    vq = read(args.vq, _vq_hints(args))
    vq = vq.with_layout(teacher.is_scanned)
    joined = start_toklip(teacher, vq, is_causal=not args.full_attention, seed=args.seed)
    print("\n".join(joined.report))
    save_weights(args.out, joined.weights.with_layout(args.layout == "scanned", lazy_stack))
    print(f"wrote {args.out}")
    return 0


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = plain_parser(
        "convert", "Converts weights: PyTorch files to directories of this package, and back."
    )
    commands = found.add_subparsers(required=True, metavar="COMMAND", prog=found.prog)
    sizes, choice, other_file, out = _sizes(), _choice(), _other_file(), _out()

    def add(name, run, *parents, **arguments):
        command = commands.add_parser(
            name, parents=parents, help=run.__doc__, description=run.__doc__
        )
        for argument, options in arguments.items():
            command.add_argument(argument, type=file_path, **options)
        command.switch("traceback", "show where an error came from")
        command.set_defaults(run=run)
        return command

    file = {"help": "a .pt, .safetensors or .npz, or a directory of safetensors with an index"}
    directory, new = {"help": "a converted directory"}, {"help": "a new directory"}
    written = {"help": "a new .safetensors or .pt, or a language model's new directory"}
    either = {"help": "a file as `to-jax` takes, or a converted directory"}
    add("inspect", inspect, sizes, choice, other_file, file=either)
    add("to-jax", to_jax, sizes, choice, other_file, out, file=file, out=new)
    add("to-torch", to_torch, directory=directory, out=written)
    add("verify", verify, choice, other_file, file=file, directory=directory)
    command = add("start", start, sizes, choice, out, teacher=either, vq=either, out=new)
    command.flag("seed", "seed of the new mapping MLP", type=int, default=0)
    return found


def _sizes():
    """Flags of sizes that shapes can't tell."""
    found = _flags()
    found.flag("num-heads", "number of heads of the image tower, if no named size fits", type=int)
    found.flag("text-num-heads", "number of heads of the text tower, likewise", type=int)
    mask = found.add_mutually_exclusive_group()
    mask.add_argument(
        "--full-attention", action="store_true", help="the token encoder has no causal mask"
    )
    mask.add_argument(
        "--causal",
        action="store_true",
        help="the token encoder has a causal mask (the default); with a file of UniTok alone: its "
        "projections have one, as in the weights of February 2025",
    )
    found.switch("no-l2", "the VQ codebook is not L2-normalised")
    found.flag("grid", "side of the grid of a generator's ids, if not its named size's", type=int)
    return found


def _choice():
    """Flags that choose among a file's weights, and its family."""
    found = _flags()
    found.flag(
        "weights",
        "if a checkpoint has both: the running mean, or the raw weights (the default is the mean "
        "of a whole model, and raw where a part of it alone has a mean, as in TokLIP-XL)",
        choices=("ema", "raw"),
    )
    found.flag(
        "family",
        "the VQ tokenizer's family, where several have the same names, as 'ibq' and 'taming'",
    )
    return found


def _other_file():
    """The flag of a VQ tokenizer's own file."""
    found = _flags()
    found.flag(
        "vq",
        "the VQ tokenizer of a TokLIP file that doesn't hold it, a file or a converted directory; "
        "--weights and --family are then about it, and raw weights are the default, which TokLIP "
        "was trained on",
        type=file_path,
    )
    return found


def _out():
    """Flags of what is written."""
    found = _flags()
    found.flag(
        "layout",
        "layers stacked for jax.lax.scan, or one by one; both load anywhere",
        choices=("scanned", "unrolled"),
        default="unrolled",
    )
    found.flag("tokenizer", "a tokenizer.json, or a directory with one, to keep too")
    return found


def _flags() -> Parser:
    """Flags that several commands have."""
    return Parser("", add_help=False)


def _hints(args):
    given = vars(args)  # `verify` takes no sizes
    return Hints(
        num_heads=given.get("num_heads"),
        text_num_heads=given.get("text_num_heads"),
        is_causal=_is_causal(given),
        is_l2_normalised=not given.get("no_l2"),
        family=args.family,
        grid=given.get("grid"),
    )


def _is_causal(given):
    if given.get("full_attention"):
        return False
    return True if given.get("causal") else None


def _vq_hints(args):
    hints = _hints(args)
    return Hints(is_l2_normalised=hints.is_l2_normalised, family=hints.family)


def _is_ema(args):
    return None if args.weights is None else args.weights == "ema"


def _read(
    path: pathlib.Path, hints: Hints, is_ema: bool | None, prefers_mean: bool = True
) -> Weights:
    if is_converted(path):
        expect_no_hints(hints, path, is_ema)
        return load_weights(path)
    checkpoint = read_checkpoint(path, is_ema, prefers_mean)
    _print_taken(checkpoint)
    weights = convert_checkpoint(checkpoint, hints)
    _print_groups("ignored", weights.dropped)
    return weights


def _read_joined(
    args: argparse.Namespace, say: Callable | None = None
) -> tuple[Checkpoint, Hints, VQConfig | None]:
    """A file, with the VQ tokenizer of another one where that is named; hints; that one's config.

    TokLIP ran the raw weights of a VQ tokenizer: they are what is joined unless told otherwise.
    """
    is_ema, hints = _is_ema(args), _hints(args)
    if is_weights(args.file):
        raise UserError(
            f"expected a file of PyTorch's names, got the converted directory {args.file}: pass "
            f"what it was converted from"
        )
    checkpoint = read_checkpoint(args.file, is_ema if args.vq is None else None)
    (say or _print_taken)(checkpoint)
    if args.vq is None:
        return checkpoint, hints, None
    vq = _read(args.vq, _vq_hints(args), is_ema, prefers_mean=False)
    is_l2_normalised = getattr(vq.config, "is_l2_normalised", True)
    family = family_of(vq.config).name
    hints = dataclasses.replace(hints, is_l2_normalised=is_l2_normalised, family=family)
    return join_vq(checkpoint, vq), hints, vq.config


def _with_tokenizer(weights: Weights, source: str) -> Weights:
    path = expand_user(source)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise NotFound(f"expected a tokenizer.json at {path}, found nothing")
    if (tower := getattr(weights.config, "text", None)) is None:
        raise UserError(f"expected no --tokenizer, got {source}: these weights read no texts")
    TextTokenizer.from_file(path, tower.context_length).expect_fits(tower)
    return dataclasses.replace(weights, tokenizer_path=path)


def _expect_new(path):
    if path.exists():
        raise AlreadyExists(f"expected a new directory, got {path}, which exists")


def _print_arrays(arrays):
    count = sum(int(np.prod(x.shape)) for x in arrays.values())
    size = sum(x.nbytes for x in arrays.values())
    dtypes = collections.Counter(str(x.dtype) for x in arrays.values())
    kinds = ", ".join(f"{number} {dtype}" for dtype, number in dtypes.items())
    print(f"{len(arrays)} tensors ({kinds}), {count:,} numbers, {size / 2**20:,.1f} MiB")


def _print_file(checkpoint: Checkpoint):
    print(f"{checkpoint.file.path}: {checkpoint.format} file")
    _print_arrays(checkpoint.tensors)
    _print_taken(checkpoint)


def _print_taken(checkpoint: Checkpoint):
    if checkpoint.taken:
        other = other_choice(checkpoint, "--weights=ema", "--weights=raw")
        print(printable_lines("; ".join(filter(None, (f"weights: {checkpoint.taken}", other)))))
    for name, reason in itertools.islice(checkpoint.dropped.items(), MAX_NAMES):
        print(f"ignored: {printable(name)}: {reason}")
    if len(checkpoint.dropped) > MAX_NAMES:
        print(f"ignored: {len(checkpoint.dropped) - MAX_NAMES} more")


def _print_groups(what: str, reasons: Mapping[str, str]):
    """A line for each tensor, or for all of a reason where they are many."""
    groups = collections.defaultdict(list)
    for name, reason in reasons.items():
        groups[reason].append(printable(name))
    for reason, names in groups.items():
        if len(names) > MAX_ALONE:
            names = [f"{len(names):,} tensors, {names[0]} among them"]
        for name in names:
            print(f"{what}: {name}: {reason}")


def _print_config(config):
    _print_lines(f"{name}: {value}" for name, value in config_to_dict(config).items())


def _print_lines(lines: Iterable[str]):
    for line in lines:
        print(printable_lines(line))


def _is_same(a, b):
    if a.dtype != b.dtype or (a.shape != b.shape and {a.shape, b.shape} != {(), (1,)}):
        return False
    # Compared as bytes: NaN equals itself, and 0 is not -0.
    a, b = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    return np.array_equal(a, b)
