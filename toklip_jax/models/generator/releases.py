"""LlamaGen's published GPTs."""

from toklip_jax.models.llamagen.releases import CLASSES, TEXTS, release
from toklip_jax.models.releases import File

CLASS_USE = 'with `vq="llamagen-vq-16-c2i"`'
TEXT_USE = 'with `vq="llamagen-vq-16-t2i"` and `text_encoder="flan-t5-xl"`'

CLASS_FILES = (
    File("c2i_B_256.pt", "444 MB"),
    File(
        "c2i_B_384.pt",
        443_736_709,
        "7ddf3a659b180e4339e4dab8802183ede1ea8f44c5cfd4359ab27bef979c17ad",
    ),
    File(
        "c2i_L_256.pt",
        1_371_712_314,
        "15fe788b9c0e8dfe36f3e3fd701b44d0c934e4fd94a0ab599b69669aa8f44a55",
    ),
    File(
        "c2i_L_384.pt",
        1_371_860_346,
        "9b8cb63634d11e684b4a68017abffff6698752ef715058a77e5e089539ebc39a",
    ),
    File(
        "c2i_XL_384.pt",
        3_099_048_319,
        "736cb92bebdcb16737dbd35210a07ae4f7fd001cdfd55b26205d89182d1807ba",
    ),
    File(
        "c2i_XXL_384.pt",
        "5.64 GB",
        "cba5a780b9d2394386e7410c630bced3a70e109cf7107e1783c9a986e9e7754e",
    ),
    File(
        "c2i_3B_384.pt",
        12_386_725_354,
        "1e9173ecbe81295b1d80b021b2bf57ed4ef089601b6745336ff20a9f382c4cac",
    ),
)
TEXT_FILES = (
    File(
        "t2i_XL_stage1_256.pt",
        3_111_800_170,
        "87d94b9b11cd80f44bd69122a4d4ed28304956e0fba07edcafce08c7a2716600",
    ),
    File(
        "t2i_XL_stage2_512.pt",
        3_111_800_170,
        "7d02d368751c21b61dc3914b0ccba70fc913dafc063dd5b16bc9abf7091f8be1",
    ),
)


def _of_classes(file):
    _, size, pixels = file.name.removesuffix(".pt").split("_")
    name = f"llamagen-{size.lower()}-{pixels}"
    title = f"LlamaGen-{size}, ImageNet classes, {pixels} px"
    options = {"grid": int(pixels) // 16}  # ids along a side, which the files don't tell
    return release(name, title, CLASSES, file, options=options, use=CLASS_USE)


def _of_texts(file):
    pixels = file.name.removesuffix(".pt").rpartition("_")[2]
    title = f"LlamaGen-XL, captions, {pixels} px"
    return release(f"llamagen-xl-t2i-{pixels}", title, TEXTS, file, use=TEXT_USE)


RELEASES = (*map(_of_classes, CLASS_FILES), *map(_of_texts, TEXT_FILES))
