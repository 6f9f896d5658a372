"""What a multimodal language model consists of, and what it reads of an image."""

import dataclasses
import math
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_names
from toklip_jax.models.base import VQConfig, family_of
from toklip_jax.models.siglip.config import VisionConfig
from toklip_jax.models.toklip.config import TokLIPConfig

TOKENS, CODES, IDS, PIXELS = "tokens", "codes", "ids", "pixels"
READS = (TOKENS, CODES, IDS, PIXELS)
LORA_SCALE = 2.0  # alpha / rank where no alpha is given: LLaVA's, of rank 128 and alpha 256


@dataclasses.dataclass(frozen=True)
class MultimodalConfig:
    """A language model with what it sees images through.

    Attributes:
        language_model: the language model's config.
        tokenizer: the config of TokLIP, or of a VQ tokenizer alone for "codes" and "ids"; None for
            "pixels".
        image_tower: the config of the image tower for "pixels", a SigLIP's; None otherwise.
        reads: what stands for an image, summed: "tokens" (TokLIP's after the final norm, through a
            projector), "codes" (code vectors, through another), "ids" (an embedding of each id: the
            language model then also predicts ids of images) and "pixels" (an image tower's tokens).
        grid: places of an image, (height, width); TokLIP's or the image tower's unless given.
        lora_rank: rank of what is added to the language model's kernels (LoRA, arXiv 2106.09685);
            0 for none.
        lora_alpha: lora_alpha / lora_rank multiplies it; 0 means twice the rank.
        template: the name of the template that it was trained to answer in
            (`data.conversations.TEMPLATES`); "" where none was said.

    Raises:
        ValueError: parts that are not read, that something read needs and are missing, or that
            would tell an id before it is predicted.
    """

    language_model: Any
    tokenizer: Any = None
    image_tower: VisionConfig | None = None
    reads: tuple[str, ...] = (TOKENS,)
    grid: tuple[int, ...] = ()
    lora_rank: int = 0
    lora_alpha: float = 0.0
    template: str = ""

    def __post_init__(self):
        object.__setattr__(self, "reads", check_names(self.reads, "reads"))
        unknown = [name for name in self.reads if name not in READS]
        if not self.reads or unknown:
            raise UserError(f"expected reads among {READS}, at least one, got {self.reads}")
        if family_of(self.language_model).role != "language_model":
            raise UserError(
                f"expected a language model's config in language_model, got that of "
                f"{family_of(self.language_model).title}"
            )
        if self.lora_rank < 0 or not 0 <= self.lora_alpha < math.inf:
            raise UserError(
                f"expected a lora_rank and a finite lora_alpha of at least 0, got "
                f"{self.lora_rank} and {self.lora_alpha}"
            )
        self._check_tokenizer()
        self._check_tower()
        self._check_causal()
        object.__setattr__(self, "grid", self._grid())
        if IDS in self.reads and self.vq.codes_per_place != 1:
            raise UserError(
                f"expected a tokenizer of one id a place with reads 'ids', got one of "
                f"{self.vq.codes_per_place}: read 'tokens' or 'codes' of this one"
            )

    @property
    def width(self) -> int:
        """Width of the language model."""
        return self.language_model.width

    @property
    def num_tokens(self) -> int:
        """Places that an image takes in the language model's sequence."""
        return math.prod(self.grid)

    @property
    def needs_ids(self) -> bool:
        """Whether images are read by their ids."""
        return self.reads != (PIXELS,)

    @property
    def predicts_images(self) -> bool:
        """Whether ids of images are in the model's vocabulary, behind those of text."""
        return IDS in self.reads

    @property
    def vq(self) -> VQConfig | None:
        """The config of the VQ tokenizer, alone or within TokLIP; None for "pixels" alone."""
        is_toklip = isinstance(self.tokenizer, TokLIPConfig)
        return self.tokenizer.vq if is_toklip else self.tokenizer

    @property
    def num_image_ids(self) -> int:
        """How many values an image's id has."""
        return self.vq.codebook_sizes[0]

    @property
    def feature_dims(self) -> dict[str, int]:
        """The widths of what goes through a projector, by name."""
        widths = {
            TOKENS: lambda: self.tokenizer.vision.width,
            CODES: lambda: self.vq.code_dim,
            PIXELS: lambda: self.image_tower.width,
        }
        return {name: widths[name]() for name in self.reads if name in widths}

    @property
    def lora_scale(self) -> float:
        """What multiplies the product of LoRA's two matrices."""
        return self.lora_alpha / self.lora_rank if self.lora_alpha else LORA_SCALE

    def _check_tokenizer(self):
        role = None if self.tokenizer is None else family_of(self.tokenizer).role
        if not self.needs_ids:
            if role is not None:
                raise UserError(
                    f"expected no tokenizer with reads {self.reads}, which need none, got "
                    f"{family_of(self.tokenizer).title}: leave it out"
                )
            return
        if role not in ("vq", "toklip"):
            shown = "none" if role is None else family_of(self.tokenizer).title
            raise UserError(
                f"expected TokLIP or a VQ tokenizer with reads {self.reads}, got {shown}: name its "
                f"weights, or read 'pixels'"
            )
        if TOKENS in self.reads and role != "toklip":
            raise UserError(
                "expected TokLIP with reads 'tokens', got a VQ tokenizer alone: name TokLIP's "
                "weights, or read 'codes'"
            )

    def _check_tower(self):
        if (PIXELS in self.reads) != (self.image_tower is not None):
            raise UserError(
                f"expected an image_tower with reads 'pixels' and not without, got "
                f"{self.image_tower} with {self.reads}"
            )

    def _check_causal(self):
        """Ids are predicted one after another: what is read of one must not tell later ones."""
        if IDS not in self.reads:
            return
        if PIXELS in self.reads:
            raise UserError(
                f"expected no 'pixels' beside 'ids' in reads, got {self.reads}: a place that saw "
                f"the whole image would tell the ids that are to be predicted; leave out one"
            )
        if TOKENS in self.reads and not self.tokenizer.vision.is_causal:
            raise UserError(
                f"expected a causal TokLIP with reads {self.reads}, got one whose tokens see all "
                f"ids, and would tell those that are to be predicted: read 'tokens' or 'ids' alone"
            )

    def _grid(self):
        own = [
            tuple(vision.grid)
            for vision in (getattr(self.tokenizer, "vision", None), self.image_tower)
            if vision is not None
        ]
        grids = {*own, *([tuple(self.grid)] if self.grid else [])}
        if len(grids) != 1:
            raise UserError(
                f"expected one grid of an image's places, got {sorted(grids) or 'none'}: give "
                f"grid=(height, width) with a VQ tokenizer alone, and image sizes that fit"
            )
        return grids.pop()
