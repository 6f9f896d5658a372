"""Measures images read and decoded per second and core, and the cores a training step needs.

    python benchmarks/decoding.py

decodes JPEGs of 256 and 512 pixels with the training transform (Pillow, bicubic) to 256 and 384
on one core; reads random records of tars, through their index, and of ArrayRecord files, from the
page cache; scans a tar for its index. Writes benchmarks/results/decoding.md. Linux only.
"""

import argparse
import io
import os
import pathlib
import platform
import re
import tarfile
import tempfile
import textwrap
import time

import numpy as np
import PIL
import PIL.Image

from toklip_jax.data.images import Decode, token_ids
from toklip_jax.data.sources.array_record import ArrayRecordSource, write_array_record
from toklip_jax.data.sources.tar_index import Extensions, load_index
from toklip_jax.data.sources.webdataset import WebDatasetSource
from toklip_jax.data.text import TextTokenizer, train_tokenizer

RESULTS = pathlib.Path(__file__).parent / "results/decoding.md"
SIDES, SIZES = (256, 512), (256, 384)  # of the JPEGs; of what the model sees
QUALITY = 95  # img2dataset's default
CAPTION = "A photo of a small red bicycle leaning on an old stone wall, number {}"
CONTEXT_LENGTH = 64  # SigLIP 2's
RATES = (10_000, 20_000, 40_000)  # images/s that a v5e-256 slice might train on
CHIPS = 256
REPEATS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200, help="decoded per measurement")
    parser.add_argument("--records", type=int, default=5000, help="in the tar and the ArrayRecord")
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pictures = {side: [jpeg(side, seed) for seed in range(args.images)] for side in SIDES}
    decoded = {
        (side, size): decoding_rate(pictures[side], size) for side in SIDES for size in SIZES
    }
    reads = reading_rates(pictures[256], args.records) | {"caption": caption_rate(args.records)}
    RESULTS.write_text(report(pictures, decoded, reads, args))
    print(RESULTS.read_text())


def jpeg(side, seed):
    """Smooth shapes and some grain: compresses about as photographs do."""
    rng = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
    smooth = np.asarray(coarse.resize((side, side), PIL.Image.Resampling.BICUBIC), np.float32)
    grain = rng.normal(0, 4, (side, side, 1))
    pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def decoding_rate(pictures, size):
    transform, rng = Decode(size, is_training=True), np.random.default_rng(0)
    return len(pictures) / best(lambda: [transform({"image": data}, rng) for data in pictures])


def caption_rate(number):
    """Captions/s, cleaned and tokenized one by one as samples are."""
    captions = [CAPTION.format(i).encode() for i in range(number)]
    tokenizer = TextTokenizer(train_tokenizer([c.decode() for c in captions], 4096), CONTEXT_LENGTH)
    return number / best(lambda: [token_ids(caption, tokenizer) for caption in captions])


def reading_rates(pictures, number):
    """Records/s of each format, and samples/s of the scan for an index."""
    records = [
        {"image": pictures[i % len(pictures)], "text": f"caption {i}"} for i in range(number)
    ]
    order = np.random.default_rng(0).permutation(number).tolist()
    with tempfile.TemporaryDirectory() as folder:
        tar, file = f"{folder}/0.tar", f"{folder}/0.array_record"
        write_tar(tar, records)
        write_array_record(file, records)

        def scan():
            pathlib.Path(f"{tar}.index.json").unlink(missing_ok=True)
            load_index(tar, Extensions())

        sources = {"tar": WebDatasetSource(tar), "ArrayRecord": ArrayRecordSource(file)}
        rates = {
            name: number / best(lambda source=source: [source[i] for i in order])
            for name, source in sources.items()
        }
        return rates | {"scan": number / best(scan)}


def write_tar(path, records):
    with tarfile.open(path, "w") as archive:
        for i, record in enumerate(records):
            parts = {"jpg": record["image"], "json": b"{}", "txt": record["text"].encode()}
            for extension, data in parts.items():
                info = tarfile.TarInfo(f"{i:09d}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def best(work):
    """CPU seconds of the best of some runs: another process on the core doesn't count."""
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def report(pictures, decoded, reads, args):
    sizes = {side: np.mean([len(data) for data in some]) / 1024 for side, some in pictures.items()}
    return "\n".join(
        [
            "# Decoding and reading on one core",
            "",
            *paragraph(
                f"`python benchmarks/decoding.py --images={args.images} --records={args.records}` "
                f"on one of {os.cpu_count()} cores of an {machine()}, Python "
                f"{platform.python_version()}, Pillow {PIL.__version__}; "
                f"{time.strftime('%d %B %Y')}. Best of {REPEATS} runs, by CPU time, as other work "
                f"shared the machine. The JPEGs are synthetic, quality {QUALITY}; photographs may "
                f"differ. Decoding is the training transform: Pillow, random resized crop of scale "
                f"0.9 to 1, bicubic."
            ),
            "| one core | per second |",
            "| --- | ---: |",
            *(
                f"| decoding a JPEG of {side} px, {sizes[side]:.0f} KiB, to {size} | {rate:,.0f} |"
                for (side, size), rate in decoded.items()
            ),
            f"| cleaning and tokenizing a caption | {reads['caption']:,.0f} |",
            f"| random read of {sizes[256]:.0f} KiB and caption, tar | {reads['tar']:,.0f} |",
            f"| the same, ArrayRecord | {reads['ArrayRecord']:,.0f} |",
            f"| scan of a tar for its index, once, samples | {reads['scan']:,.0f} |",
            "",
            "Reads are from one file in the page cache: what Python and the format cost, not the "
            "disk.",
            "",
            *cores_table(decoded, 1 / reads["tar"] + 1 / reads["caption"]),
            "",
        ]
    )


def cores_table(decoded, others):
    """Cores for a step of a v5e-256 at several speeds; `others`: seconds beside decoding."""
    return [
        "## Cores that a v5e-256 needs",
        "",
        *paragraph(
            f"cores = images/s * (1 / decoding + 1 / tokenizing + 1 / reading), and images/s = "
            f"batch size / seconds of a step. In brackets: a chip, of {CHIPS}; times the chips of "
            f"a host that is what a host needs. The cores are this machine's, so measure on the "
            f"host. Stacking batches and moving them between processes come on top."
        ),
        "| JPEG to size | " + " | ".join(f"{rate:,} images/s" for rate in RATES) + " |",
        "| --- |" + " ---: |" * len(RATES),
        *(
            f"| {side} to {size} | "
            + " | ".join(cores(rate * (1 / speed + others)) for rate in RATES)
            + " |"
            for (side, size), speed in decoded.items()
        ),
    ]


def paragraph(text):
    return [*textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False), ""]


def cores(number):
    return f"{number:,.1f} ({number / CHIPS:.2f})"


def machine():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return model[1].strip() if model else platform.machine()


if __name__ == "__main__":
    main()
