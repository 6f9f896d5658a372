"""Time and peak memory of a large retrieval evaluation, on random features.

    python benchmarks/retrieval.py --images=50000 --captions=25000 --dim=1152

ranks captions for images and images for captions as the evaluation does, figures included, in a
process of its own, and checks the ranks of some queries against NumPy's full sort. Writes
`benchmarks/results/retrieval.json`. Linux only.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import time

import jax
import numpy as np

from toklip_jax.evaluation.retrieval import positives_from_labels, recall_at_k, retrieval_ranks

RESULT = pathlib.Path(__file__).parent / "results/retrieval.json"
CHECKED = 64  # queries


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--captions", type=int, default=25_000)
    parser.add_argument("--dim", type=int, default=1152)
    args = parser.parse_args()
    images, texts, image_labels, text_labels = features(args)
    before = peak_bytes()
    start = time.perf_counter()
    recalls = {
        "image_to_text": recall_at_k(
            images, texts, positives_from_labels(image_labels, text_labels)
        ),
        "text_to_image": recall_at_k(
            texts, images, positives_from_labels(text_labels, image_labels)
        ),
    }
    seconds = time.perf_counter() - start
    check(images, texts, image_labels, text_labels)
    result = {
        "images": args.images,
        "captions": args.captions,
        "dim": args.dim,
        "seconds": round(seconds, 1),
        "peak_gib": round(peak_bytes() / 2**30, 2),
        "of_it_features_and_imports_gib": round(before / 2**30, 2),
        "recalls": {k: {n: e.value for n, e in v.compute().items()} for k, v in recalls.items()},
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__}",
    }
    print(json.dumps(result, indent=2))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def features(args):
    """Captions lie near their image, so that recalls are neither 0 nor 1."""
    random = np.random.default_rng()
    images = random.standard_normal((args.images, args.dim), np.float32)
    image_labels = np.arange(args.images)
    # Every image needs a caption: images beyond the captions share them, label by label.
    image_labels = image_labels % args.captions
    text_labels = np.arange(args.captions)
    texts = images[: args.captions] + 6 * random.standard_normal(
        (args.captions, args.dim), np.float32
    )
    for rows in (images, texts):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return images, texts, image_labels, text_labels


def check(images, texts, image_labels, text_labels):
    some = np.random.default_rng(0).choice(len(texts), CHECKED, replace=False)
    positives = positives_from_labels(text_labels[some], image_labels)
    ranks = retrieval_ranks(texts[some], images, positives)
    scores = texts[some].astype(np.float64) @ images.astype(np.float64).T
    order = np.argsort(-scores, axis=1, kind="stable")
    is_right = image_labels[order] == text_labels[some][:, None]
    np.testing.assert_array_equal(ranks, is_right.argmax(axis=1))


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
