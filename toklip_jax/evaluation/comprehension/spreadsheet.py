"""Writes a table as a spreadsheet (.xlsx): the least that Office Open XML (ECMA-376) asks for."""

import pathlib
import re
import zipfile
from collections.abc import Sequence
from xml.sax import saxutils

from toklip_jax.core.errors import UserError

LONGEST_CELL = 32_767  # characters; spreadsheets refuse more
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PARTS = {
    "[Content_Types].xml": (
        f'<Types xmlns="{_PACKAGE}/content-types">'
        '<Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
        '<Override PartName="/xl/worksheets/sheet1.xml" '
        f'ContentType="{_TYPE}.worksheet+xml"/></Types>'
    ),
    "_rels/.rels": (
        f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
        f'Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
    ),
    "xl/workbook.xml": (
        f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>'
        '<sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>'
    ),
    "xl/_rels/workbook.xml.rels": (
        f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
        f'Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>'
    ),
}


def write_spreadsheet(
    path: pathlib.Path, columns: Sequence[str], rows: Sequence[Sequence[str | int | None]]
) -> None:
    """Writes one sheet, whole or not at all: a row of names, then the rows.

    Texts stay texts, whatever they look like. Control characters, which XML can't hold, are left
    out of them.

    Args:
        path: the file.
        columns: the names.
        rows: cells, None for an empty one.

    Raises:
        ValueError: a text is longer than a cell may be.
    """
    lines = [_row(number, cells) for number, cells in enumerate([columns, *rows], 1)]
    sheet = f'<worksheet xmlns="{_MAIN}"><sheetData>{"".join(lines)}</sheetData></worksheet>'
    draft = path.with_name(f".{path.name}")
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in (_PARTS | {"xl/worksheets/sheet1.xml": sheet}).items():
                file.writestr(name, _HEAD + content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _row(number, cells):
    texts = (
        _cell(f"{_letters(place)}{number}", cell)
        for place, cell in enumerate(cells)
        if cell is not None
    )
    return f'<row r="{number}">{"".join(texts)}</row>'


def _cell(place, value):
    if isinstance(value, int):
        return f'<c r="{place}"><v>{value}</v></c>'
    if len(value) > LONGEST_CELL:
        raise UserError(
            f"expected texts of at most {LONGEST_CELL} characters in a spreadsheet, got "
            f"{len(value)} for cell {place}: ask for shorter answers"
        )
    text = saxutils.escape(_NO_XML.sub("", value))
    return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'


def _letters(place):
    """Returns a column's name: A, ..., Z, AA, ..."""
    letters = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters
