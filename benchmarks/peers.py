"""The PyTorch peer: the same models of public parts, `transformers`' classes.

`JanusVQVAE` is LlamaGen's VQ-16; its latents and codes are normalised here, as LlamaGen's are and
Janus's aren't. `SiglipVisionModel` is the tower of teacher and token encoder; under the latter the
patch embedding is replaced by the mapping MLP and attention is causal. Attention is PyTorch's own
fused function. Needs torch and transformers.
"""

import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers.models.janus.configuration_janus import JanusVQVAEConfig

from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.siglip.config import TextConfig, VisionConfig
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.token_encoder import MAPPING_RATIO


class VQ(nn.Module):
    """Images [b, 3, h, w] to ids [b, n]; ids to code vectors [b, n, c]."""

    def __init__(self, config: LlamaGenConfig, side: int):
        super().__init__()
        self.parts = transformers.JanusVQVAE(
            JanusVQVAEConfig(
                embed_dim=config.codebook_dim,
                num_embeddings=config.codebook_size,
                latent_channels=config.z_channels,
                base_channels=config.channels,
                channel_multiplier=list(config.multipliers),
                num_res_blocks=config.num_res_blocks,
                num_patches=side,
            )
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        latents = self.parts.quant_conv(self.parts.encoder(images)).float()
        return self.parts.quantize(functional.normalize(latents, dim=1))[2].view(len(images), -1)

    def code_vectors(self, ids: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.parts.quantize.embedding(ids), dim=-1)

    def normalize_codes(self) -> None:
        """Once, for `forward` compares latents with the codes as they lie."""
        codes = self.parts.quantize.embedding.weight
        codes.data = functional.normalize(codes.data, dim=-1)


class TokenEncoder(nn.Module):
    """Code vectors [b, n, c] to features [b, d]."""

    def __init__(self, config: VisionConfig, code_dim: int):
        super().__init__()
        hidden = MAPPING_RATIO * config.width
        self.mapping = nn.Sequential(
            nn.Linear(code_dim, hidden), nn.GELU(), nn.Linear(hidden, config.width)
        )
        self.pos_embed = nn.Parameter(
            config.width**-0.5 * torch.randn(config.num_tokens, config.width)
        )
        tower = vision_tower(config)
        self.encoder, self.norm, self.head = tower.encoder, tower.post_layernorm, tower.head
        for layer in self.encoder.layers:
            layer.self_attn.is_causal = config.is_causal

    def forward(self, code_vectors: torch.Tensor) -> torch.Tensor:
        x = self.mapping(code_vectors.to(self.pos_embed.dtype)) + self.pos_embed
        return self.head(self.norm(self.encoder(inputs_embeds=x).last_hidden_state))


class Tokenizer(nn.Module):
    """VQ and token encoder: what turns images to ids, and ids to features."""

    def __init__(self, config: TokLIPConfig):
        super().__init__()
        self.vq = VQ(config.vq, config.vision.grid[0])
        self.token_encoder = TokenEncoder(config.vision, config.vq.codebook_dim)

    def image_features(self, ids: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.token_encoder(self.vq.code_vectors(ids)).float(), dim=-1)


def vision_tower(config: VisionConfig) -> nn.Module:
    """SigLIP's image tower: embeddings, `encoder`, `post_layernorm`, `head`."""
    model = transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(
            **_sizes(config), image_size=config.image_size, patch_size=config.patch_size
        )
    )
    return getattr(model, "vision_model", model)  # before transformers 5.2x it was wrapped


def text_tower(config: TextConfig) -> nn.Module:
    """SigLIP's text tower; call it with token ids, `pooler_output` is the feature."""
    return transformers.SiglipTextModel(
        transformers.SiglipTextConfig(
            **_sizes(config),
            bos_token_id=None,
            eos_token_id=None,
            vocab_size=config.vocab_size,
            max_position_embeddings=config.context_length,
            projection_size=config.embed_dim,
        )
    )


def _sizes(config):
    assert config.activation == "gelu_tanh", config.activation
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": config.norm_eps,
        "attn_implementation": "sdpa",
    }
