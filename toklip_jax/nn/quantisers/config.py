"""The config of a quantiser by any method, for tokenizers that are trained from scratch."""

import dataclasses
from collections.abc import Callable

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.nn.quantisers.base import Quantiser
from toklip_jax.nn.quantisers.inner_product import InnerProductQuantiser
from toklip_jax.nn.quantisers.residual import ResidualQuantiser
from toklip_jax.nn.quantisers.several import SeveralCodebooks
from toklip_jax.nn.quantisers.sign import SignQuantiser, check_bits
from toklip_jax.nn.quantisers.vector import VectorQuantiser


@dataclasses.dataclass(frozen=True)
class QuantiserConfig:
    """Sizes of a quantiser.

    Attributes:
        method: one of `METHODS`.
        codebook_size: number of codes that each id chooses from; 2^dim where codes are signs.
        dim: length of a code.
        count: ids that stand at one place, where the method gives several.
    """

    method: str = "l2"
    codebook_size: int = 16_384
    dim: int = 8
    count: int = 1

    def __post_init__(self):
        check_name("a quantiser's method", self.method, METHODS)
        for name in ("codebook_size", "dim", "count"):
            if getattr(self, name) < 1:
                raise UserError(f"expected a {name} of at least 1, got {getattr(self, name)}")
        if self._method.is_single != (self.count == 1):
            expected = "1, as it gives one id a place" if self._method.is_single else "at least 2"
            raise UserError(
                f"expected with the method {self.method!r} a count of {expected}, got {self.count}"
            )
        self._method.check(self)

    @property
    def codes_per_place(self) -> int:
        return self.count

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.codebook_size,) * self.count

    @property
    def code_dim(self) -> int:
        """Length of the vector that a place's ids stand for together."""
        return self.dim * (self.count if self._method.is_joined else 1)

    def build(self) -> Quantiser:
        """Returns the module."""
        return self._method.build(self)

    @property
    def _method(self):
        return METHODS[self.method]


@dataclasses.dataclass(frozen=True)
class Method:
    """A kind of quantiser.

    Attributes:
        build: `build(config)` returns the module.
        check: `check(config)` raises ValueError where the sizes don't fit the method.
        is_single: whether it gives one id a place.
        is_joined: whether a place's vector joins the codes of its ids, end to end; otherwise it
            has the length of one code.
    """

    build: Callable[[QuantiserConfig], Quantiser]
    check: Callable[[QuantiserConfig], None] = lambda config: None
    is_single: bool = True
    is_joined: bool = False


def _check_signs(config):
    check_bits(config.dim)
    if config.codebook_size != 2**config.dim:
        raise UserError(
            f"expected a codebook_size of 2^dim = {2**config.dim} where codes are {config.dim} "
            f"signs, got {config.codebook_size}"
        )


METHODS = {
    "l2": Method(lambda c: VectorQuantiser(c.codebook_size, c.dim, is_l2_normalised=True)),
    "plain": Method(lambda c: VectorQuantiser(c.codebook_size, c.dim)),
    "inner_product": Method(lambda c: InnerProductQuantiser(c.codebook_size, c.dim)),
    "residual": Method(
        lambda c: ResidualQuantiser(c.codebook_size, c.dim, c.count), is_single=False
    ),
    "several": Method(
        lambda c: SeveralCodebooks(c.count, c.codebook_size, c.dim), is_single=False, is_joined=True
    ),
    "sign": Method(lambda c: SignQuantiser(c.dim), _check_signs),
}
