"""The public evaluations, of released or trained weights; `docs/evaluation.md` has each's command.

    python -m toklip_jax.main --mode=eval --config=configs/evaluate.py --workdir=runs/evaluated \\
        --config.models.toklip=TokLIP_S_256.pt --config.text.tokenizer=tokenizer.json \\
        --config.evaluate="('imagenet',)"
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the configuration; override any field with `--config.a.b=value`."""
    return ConfigDict(
        {
            "seed": 0,
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "compute": {"dtype": "float32", "vq_dtype": "float32", "is_scanned": True},
            # What the weights came with: their tokenizer, and their length of texts.
            "text": {"tokenizer": "", "context_length": 0},
            "num_workers": 2,
            "stages": (),
            # Weights: converted directories, or PyTorch files. What is "" is left out.
            "models": {"toklip": "", "teacher": "", "vq": "", "inception": ""},
            "image_size": 0,  # the model's
            # The released evaluation scripts take the centre square; "squash" is the other way.
            "evaluation_resize": "crop",
            "evaluation_batch_size": 64,
            "evaluate": (),  # names of those below
            "evaluations": evaluations(),
            "report": {"source": _imagenet("imagenet2012", "validation"), "num_images": 8},
        }
    )


def evaluations() -> dict:
    """The sections; TFDS data sets are prepared beforehand with file_format="array_record"."""
    validation = _imagenet("imagenet2012", "validation")
    train = _imagenet("imagenet2012", "train[:100000]")
    return {
        "imagenet": _zeroshot(validation),
        "imagenet_v2": _zeroshot(_imagenet("imagenet_v2", "test")),
        "imagenet_a": _zeroshot(_imagenet("imagenet_a", "test"), "imagenet_a"),
        "imagenet_r": _zeroshot(_imagenet("imagenet_r", "test"), "imagenet_r"),
        "imagenet_sketch": _zeroshot(_imagenet("imagenet_sketch", "test")),
        "folder": _zeroshot({"kind": "image_folder", "root": "path/to/images"}, ""),
        "coco": _karpathy("path/to/dataset_coco.json", "path/to/coco"),
        "flickr30k": _karpathy("path/to/dataset_flickr30k.json", "path/to/flickr30k-images"),
        "reconstruction": {"kind": "reconstruction", "source": validation, "reference": ""},
        "generation": {
            "kind": "generation",
            "source": {"kind": "image_folder", "root": "path/to/generated"},
            "reference": "path/to/reference.npz",
        },
        "meaning": {"kind": "meaning", "train": train, "test": validation},
        "prefix": {
            "kind": "prefix",
            "source": validation,
            "classes": "imagenet",
            "templates": "imagenet_80",
        },
    }


def _imagenet(name, split):
    return {
        "kind": "tfds",
        "name": name,
        "split": split,
        "label": "label",
        "data_dir": "~/tensorflow_datasets",
    }


def _zeroshot(source, classes="imagenet"):
    return {
        "kind": "zeroshot",
        "source": source,
        "classes": classes,
        "templates": "imagenet_80",
    }


def _karpathy(annotations, images):
    source = {"kind": "karpathy", "annotations": annotations, "images": images, "split": "test"}
    return {"kind": "retrieval", "source": source, "reference_count": True}
