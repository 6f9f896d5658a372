"""Qwen2.5's and Qwen3's published language models."""

from toklip_jax.models.releases import File, Release, Snapshot

LICENCE = "Apache-2.0"
# What generation and the text tokenizer read.
BESIDE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
)
INDEX = File("model.safetensors.index.json")
QWEN2_5_7B = ("3.95 GB", "3.86 GB", "3.86 GB", "3.56 GB")


def _one(size=None, sha256=None):
    return (File("model.safetensors", size, sha256),)


def _shards(sizes):
    """An index and the files it names."""
    count = len(sizes)
    names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    return (INDEX, *map(File, names, sizes))


def _release(model, weights, revision):
    files = (*weights, *map(File, BESIDE))
    snapshot = Snapshot(f"Qwen/{model}", files, revision)
    return Release(model.lower(), model, LICENCE, snapshot)


RELEASES = (
    _release("Qwen2.5-0.5B", _one(), "060db6499f32faf8b98477b0a26969ef7d8b9987"),
    _release(
        "Qwen2.5-0.5B-Instruct",
        _one(988_097_824, "fdf756fa7fcbe7404d5c60e26bff1a0c8b8aa1f72ced49e7dd0210fe288fb7fe"),
        "7ae557604adf67be50417f59c2c2f167def9a775",
    ),
    _release("Qwen2.5-1.5B", _one(), "8faed761d45a263340a0528343f099c05c9a4323"),
    _release("Qwen2.5-1.5B-Instruct", _one(), "989aa7980e4cf806f80c7fef2b1adb7bc71aa306"),
    _release("Qwen2.5-7B", _shards(QWEN2_5_7B), "d149729398750b98c0af14eb82c78cfe92750796"),
    _release("Qwen2.5-7B-Instruct", (INDEX,), "a09a35458c702b33eeacc393d103063234e8bc28"),
    _release("Qwen3-0.6B", _one(), "c1899de289a04d12100db370d81485cdf75e47ca"),
    _release("Qwen3-1.7B", (INDEX,), "70d244cc86ccca08cf5af4e1e306ecf908b1ad5e"),
    _release(
        "Qwen3-4B",
        _shards(("3.96 GB", "3.99 GB", "99.6 MB")),
        "1cfa9a7208912126459214e8b04321603b3df60c",
    ),
)
