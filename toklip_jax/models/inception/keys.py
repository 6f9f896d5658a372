"""The names of FID's Inception v3 in torchvision's and pytorch-fid's files."""

from toklip_jax.core.errors import UserError
from toklip_jax.files.layouts import CONV, LINEAR, norm_rules
from toklip_jax.files.rules import SAME, Rule
from toklip_jax.files.shapes import shape_of
from toklip_jax.models.base import ForeignKeys, Hints, Tensors
from toklip_jax.models.inception.config import InceptionConfig

BIAS = "the classifier's bias, which the inception score leaves out"
UNREAD = "the classifier, which was not read when these weights were converted"
BATCHES = "a counter of training's batches, no parameter"
FID_CLASSES = 1008  # of the graph "inception-2015-12-05"; torchvision's has 1000
FID_STEM_WIDTH = 32
FID_FILE = "pt_inception-2015-12-05-6726825d.pth of github.com/mseitzer/pytorch-fid"


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> InceptionConfig:
    """Returns the config of FID's Inception; only the divisor of its widths may differ.

    Raises:
        ValueError: another Inception v3, such as torchvision's, which has the same names.
    """
    classes = shape_of(tensors, "fc.weight", 2)[0]
    if classes != FID_CLASSES or any(name.startswith("AuxLogits.") for name in tensors):
        raise UserError(
            f"expected FID's Inception v3, whose fc has {FID_CLASSES} classes, got another with "
            f"{classes}: its features would not compare; fetch {FID_FILE}"
        )
    width = shape_of(tensors, "Conv2d_1a_3x3.conv.weight", 4)[0]
    return InceptionConfig(divisor=max(FID_STEM_WIDTH // width, 1), num_classes=classes)


def rules(config: InceptionConfig, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map; the network is never within another, so there are no prefixes."""
    classifier = "classifier" if config.num_classes else None
    return [*_RULES, Rule("fc.weight", classifier, LINEAR if classifier else SAME, UNREAD)]


def _unit_rules(source: str, target: str) -> list[Rule]:
    """A convolution, its batch norm and that norm's running statistics."""
    return [
        Rule(f"{source}.conv.weight", f"{target}/kernel", CONV),
        *norm_rules(f"{source}.bn", target),
        Rule(f"{source}.bn.running_mean", f"{target}/mean"),
        Rule(f"{source}.bn.running_var", f"{target}/variance"),
        Rule(f"{source}.bn.num_batches_tracked", None, reason=BATCHES),
    ]


def _branch_rules(source: str, target: str) -> list[Rule]:
    """The branches of Inception's blocks; each block has some of them."""
    return [
        *_unit_rules(f"{source}.branch{{k}}x{{l}}", f"{target}/branch_{{k}}x{{l}}"),
        *_unit_rules(f"{source}.branch{{k}}x{{l}}_{{j}}", f"{target}/branch_{{k}}x{{l}}_{{j}}"),
        *_unit_rules(
            f"{source}.branch{{k}}x{{l}}_{{j}}{{A}}", f"{target}/branch_{{k}}x{{l}}_{{j}}{{A}}"
        ),
        *_unit_rules(
            f"{source}.branch{{k}}x{{l}}dbl_{{j}}", f"{target}/branch_double_{{k}}x{{l}}_{{j}}"
        ),
        *_unit_rules(
            f"{source}.branch{{k}}x{{l}}dbl_{{j}}{{A}}",
            f"{target}/branch_double_{{k}}x{{l}}_{{j}}{{A}}",
        ),
        *_unit_rules(f"{source}.branch7x7x3_{{j}}", f"{target}/branch_7x7x3_{{j}}"),
        *_unit_rules(f"{source}.branch_pool", f"{target}/branch_pool"),
    ]


_RULES = [
    *_unit_rules("Conv2d_1{A}_3x3", "conv_1{A}"),
    *_unit_rules("Conv2d_2{A}_3x3", "conv_2{A}"),
    *_unit_rules("Conv2d_3{A}_1x1", "conv_3{A}"),
    *_unit_rules("Conv2d_4{A}_3x3", "conv_4{A}"),
    *_branch_rules("Mixed_{i}{B}", "mixed_{i}{B}"),
    Rule("fc.bias", None, reason=BIAS),
]

KEYS = ForeignKeys(("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight"), infer, rules)
