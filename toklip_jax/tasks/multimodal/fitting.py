"""Compares the data of a multimodal stage with its model, before anything is trained on them."""

from toklip_jax.core.errors import UserError
from toklip_jax.data.cache import load_header
from toklip_jax.data.sources import ARRAYS, SourceConfig
from toklip_jax.data.text import read_tokenizer
from toklip_jax.models.multimodal.config import PIXELS, MultimodalConfig
from toklip_jax.tasks.base import StageConfig
from toklip_jax.tasks.generator.objective import vq_params
from toklip_jax.tasks.multimodal.objective import MultimodalObjective
from toklip_jax.tasks.multimodal.source import gives_ids
from toklip_jax.tasks.toklip.cached import ENCODE_AGAIN, expect_dtype, expect_hash, expect_vq
from toklip_jax.training.state import Params
from toklip_jax.weights.fingerprints import fingerprint_params

WHOLE = "squash"  # as `Pixels` gives images: questions may be about any part of one


def check_data(stage: StageConfig, objective: MultimodalObjective, params: Params) -> None:
    """Compares text tokenizers, places of images and ids with the model's.

    Sources of all kinds that have the arguments `text_tokenizer` and `tokens_per_image` are
    compared, those in mixtures too.

    Raises:
        ValueError: a difference; says what to change.
    """
    config = objective.model_config
    _check_text_tokenizer(stage.model.text_tokenizer, config)
    digest = ""
    for source in stage.source.leaves if stage.source is not None else ():
        _check_places(source, config)
        _check_text_tokenizer(source.completed.get("text_tokenizer", ""), config)
        if not gives_ids(source):
            continue
        _check_reads(source, config)
        if cache := source.completed["cache"]:
            digest = digest or fingerprint_params(vq_params(params))
            _check_cache(source, cache, objective, digest, _where(stage))


def _check_text_tokenizer(path: str, config: MultimodalConfig) -> None:
    size = config.language_model.vocab_size
    if path and (largest := max(read_tokenizer(path).get_vocab().values())) >= size:
        raise UserError(
            f"expected a text tokenizer of at most {size} ids, the language model's, got one with "
            f"the id {largest} in {path}: name the language model's own"
        )


def _check_places(source: SourceConfig, config: MultimodalConfig) -> None:
    found = source.completed.get("tokens_per_image", config.num_tokens)
    if found != config.num_tokens:
        raise UserError(
            f"expected {source.where}.tokens_per_image {config.num_tokens}, the model's grid "
            f"{config.grid}, got {found}"
        )


def _check_reads(source: SourceConfig, config: MultimodalConfig) -> None:
    """Checks that the model reads ids, and those that Parquet files hold."""
    if PIXELS in config.reads:
        raise UserError(
            f"expected {source.where}.images for a model that reads 'pixels', got ids: name the "
            f"folder of the images"
        )
    sizes, found = config.vq.codebook_sizes, source.completed["codebook_size"]
    if source.completed["messages"] and sizes != (found,):
        raise UserError(
            f"expected ids of the model's codebook, of {sizes}, got {source.where}.codebook_size "
            f"{found}: write the files with the model's tokenizer, of one id a place"
        )


def _check_cache(source, directory, objective, digest, where) -> None:
    """Compares a cache of ids with the model's tokenizer, and its images with `Pixels`'."""
    config, header = objective.model_config, load_header(directory)
    ours = {"grid": config.grid, "codebook_sizes": config.vq.codebook_sizes}
    for name, value in ours.items():
        if getattr(header, name) != value:
            raise UserError(
                f"expected a cache with {name} {value}, the model's, got {getattr(header, name)} "
                f"in {directory}: {ENCODE_AGAIN}"
            )
    expect_vq(header, directory, config.vq)
    expect_hash(header, directory, "vq", digest, where)
    expect_dtype(header, directory, objective.compute)
    if header.transform.get("resize") != WHOLE and not _keeps_arrays(source, header):
        how = header.transform.get("resize") or "at random"
        raise UserError(
            f"expected a cache of whole images, as questions may be about any part of one, got "
            f"images cropped ({how}) in {directory}: encode again with encode.resize={WHOLE!r}"
        )


def _keeps_arrays(source, header) -> bool:
    """Whether a cache is of arrays, which are whole unless they are augmented."""
    plain = source.completed["source"]
    if plain is None or header.transform.get("augment"):
        return False
    return SourceConfig.from_plain(plain, f"{source.where}.source").gives == ARRAYS


def _where(stage: StageConfig) -> str:
    """The field that the tokenizer comes from."""
    return f"{stage.name}.init.{next(n for n in ('model', 'tokenizer') if n in stage.model.init)}"
