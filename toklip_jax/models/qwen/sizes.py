"""Named sizes of Qwen2.5 and Qwen3: the published ones, and tiny ones for tests."""

from toklip_jax.models.qwen.config import QwenConfig

# What Qwen3 has that Qwen2.5 has not.
QWEN3 = {
    "head_dim": 128,
    "max_positions": 40_960,
    "has_qkv_bias": False,
    "has_qk_norm": True,
}
LONG = {"max_positions": 131_072}
TINY = {"vocab_size": 512, "max_positions": 512}

SIZES = {
    "qwen2.5_0.5b": QwenConfig(896, 24, 14, 2, 4864),
    "qwen2.5_1.5b": QwenConfig(1536, 28, 12, 2, 8960, **LONG),
    "qwen2.5_7b": QwenConfig(3584, 28, 28, 4, 18_944, vocab_size=152_064, is_tied=False, **LONG),
    "qwen3_0.6b": QwenConfig(1024, 28, 16, 8, 3072, **QWEN3),
    "qwen3_1.7b": QwenConfig(2048, 28, 16, 8, 6144, **QWEN3),
    "qwen3_4b": QwenConfig(2560, 36, 32, 8, 9728, **QWEN3),
    "qwen2.5_tiny": QwenConfig(64, 3, 4, 2, 176, **TINY),
    "qwen3_tiny": QwenConfig(64, 3, 4, 2, 160, **QWEN3 | TINY | {"head_dim": 24}),
}
