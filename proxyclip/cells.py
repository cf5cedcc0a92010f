"""How the workbook's cells look: headers, numbers, bold, widths."""

import re

from openpyxl.styles import Alignment, Border, Font, PatternFill, Side
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.properties import PageSetupProperties

FACE = {"name": "Calibri", "size": 11}  # openpyxl's own for cells that name none
PLAIN, BOLD = Font(**FACE), Font(**FACE, bold=True)
GREY, HEADER = Font(**FACE, italic=True, color="707070"), Font(**FACE, bold=True, color="FFFFFF")
HEADER_FILL, LEFT_LINE = PatternFill("solid", fgColor="2F3E55"), Border(left=Side(style="thin", color="8A94A6"))
CENTRE = Alignment(horizontal="center", vertical="center")
TWO_DECIMALS, ONE_DECIMAL = "0.00", "0.0"


def header(sheet, row: int, titles: list[str]) -> None:
    for column, title in enumerate(titles, start=1):
        cell = sheet.cell(row, column, title)
        cell.font, cell.fill, cell.alignment = HEADER, HEADER_FILL, CENTRE


def score(cell, value, font: Font | None = None, number_format: str = TWO_DECIMALS) -> None:
    """A number; a word about it to the right, in grey; or nothing."""
    if isinstance(value, (int, float)):
        cell.value, cell.number_format = float(value), number_format
        cell.font = font or PLAIN
    else:
        cell.value, cell.font, cell.alignment = value, GREY, Alignment(horizontal="right")


def embolden(sheet, column: int, first: int) -> None:
    """The best number of a column in bold, all of them if it is reached more than once."""
    cells = [sheet.cell(row, column) for row in range(first, sheet.max_row + 1)]
    best = max((cell.value for cell in cells if isinstance(cell.value, float)), default=None)
    for cell in cells:
        if best is not None and cell.value == best:
            cell.font = Font(**FACE, bold=True, italic=cell.font.italic, color=cell.font.color)


def plain(value):
    """What fits in a cell."""
    return value if value is None or isinstance(value, (int, float, str)) else ", ".join(map(str, value))


def fit(sheet, header_rows: int, frozen: str, skip_from: int | None = None) -> None:
    """Readable widths, the header and the names always in sight."""
    sheet.freeze_panes = frozen
    sheet.page_setup.orientation, sheet.page_setup.fitToHeight = "landscape", 0
    sheet.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)  # printed as wide as one page
    for column in sheet.iter_cols(max_row=skip_from and skip_from - 1):
        texts = [shown_text(cell) for cell in column]
        two_wide = header_rows == 2 and column[0].column > 3
        longest = max(len(text) for text in (texts[1:] if two_wide else texts))
        if two_wide:
            title = len(sheet.cell(1, column[0].column - (column[0].column % 2)).value or "")
            longest = max(longest, title // 2 + 1)
        sheet.column_dimensions[get_column_letter(column[0].column)].width = min(max(longest + 2, 7), 60)


def shown_text(cell) -> str:
    return f"{cell.value:.2f}" if isinstance(cell.value, float) else str(cell.value or "")


def sheet_name(dataset: str, taken: list[str]) -> str:
    """At most 31 characters, none of those that spreadsheets forbid, and not one that is there already."""
    name = re.sub(r"[\[\]:*?/\\]", "_", dataset)[:28]
    same = sum(other == name or other.startswith(name + "-") for other in taken)
    return f"{name}-{same + 1}" if same else name
