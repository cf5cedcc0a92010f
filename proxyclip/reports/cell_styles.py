"""Writing workbook cells: text that is never a formula, headers, numbers, bold type, column widths."""

import math
import re

from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Alignment, Border, Font, PatternFill, Side
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.properties import PageSetupProperties

from proxyclip.reports.changes import value_text

FACE = {"name": "Calibri", "size": 11}  # openpyxl's default
PLAIN = Font(**FACE)
GREY, HEADER = Font(**FACE, italic=True, color="707070"), Font(**FACE, bold=True, color="FFFFFF")
LINE = Side(style="thin", color="8A94A6")
LEFT_LINE, TOP_LINE, BOTH_LINES = Border(left=LINE), Border(top=LINE), Border(left=LINE, top=LINE)
HEADER_FILL = PatternFill("solid", fgColor="2F3E55")
CENTRE = Alignment(horizontal="center", vertical="center")
TWO_DECIMALS, ONE_DECIMAL = "0.00", "0.0"
PAGE_WIDTH = 320  # characters of a column's width that can still be read on one printed page
FORMULA_STARTS = ("=", "+", "-", "@")
NOT_IN_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")


def write(cell, value, font: Font = PLAIN) -> None:
    """Puts a value into a cell: a number, a text that no program takes for a formula, or nothing for None and NaN."""
    if font is not PLAIN:  # the font of every new cell; setting one takes longer than all the rest
        cell.font = font
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        cell.value = value
        return
    cell.value = text = cell_text(value_text(value))
    cell.data_type = "s"
    cell.quotePrefix = text.startswith(FORMULA_STARTS)  # remains text when edited


def cell_text(text: str) -> str:
    """The text in one line, without what a workbook cannot hold."""
    return " ".join(NOT_IN_XML.sub("", ILLEGAL_CHARACTERS_RE.sub("", text)).split())


def header(sheet, row: int, titles: list[str]) -> None:
    for column, title in enumerate(titles, start=1):
        cell = sheet.cell(row, column)
        write(cell, title)
        cell.font, cell.fill, cell.alignment = HEADER, HEADER_FILL, CENTRE


def double_header(sheet, front: list[str], titles: list[str], pair: tuple[str, str]) -> None:
    """Two rows: the columns in front, then under each title the same two columns."""
    header(sheet, 1, [*front, *(text for title in titles for text in (title, ""))])
    header(sheet, 2, [*("" for _ in front), *pair * len(titles)])
    for column in range(1, len(front) + 1):
        sheet.merge_cells(start_row=1, end_row=2, start_column=column, end_column=column)
    for column in range(len(front) + 1, len(front) + 2 * len(titles), 2):
        sheet.merge_cells(start_row=1, end_row=1, start_column=column, end_column=column + 1)


def score(cell, value, font: Font = PLAIN, number_format: str = TWO_DECIMALS, marks: str = "") -> None:
    """A number, followed by its marks; a word about it, in grey; or nothing."""
    cell.alignment = CENTRE
    if isinstance(value, str):
        write(cell, value, GREY)
        return
    write(cell, value, font)
    cell.number_format = f'{number_format}" {marks}"' if marks else number_format


def bold_best(cells: list) -> None:
    """The best number in bold, all of them if it is reached more than once."""
    best = max((cell.value for cell in cells if isinstance(cell.value, float)), default=None)
    for cell in cells:
        if best is not None and cell.value == best:
            cell.font = Font(**FACE, bold=True, italic=cell.font.italic, color=cell.font.color)


def fit(sheet, header_rows: int, frozen: str, skip_from: int | None = None) -> None:
    """Readable widths, the header and the names always in sight, on paper too."""
    sheet.freeze_panes = frozen
    widths = 0
    for column in sheet.iter_cols(max_row=skip_from and skip_from - 1):
        texts = [printed(cell) for cell in column]
        two_wide = header_rows == 2 and column[0].column > 3
        longest = max(len(text) for text in (texts[1:] if two_wide else texts))
        if two_wide:
            title = len(sheet.cell(1, column[0].column - (column[0].column % 2)).value or "")
            longest = max(longest, title // 2 + 1)
        width = min(max(longest + 2, 8), 60)
        sheet.column_dimensions[get_column_letter(column[0].column)].width = width
        widths += width
    sheet.page_setup.orientation, sheet.page_setup.paperSize = "landscape", sheet.PAPERSIZE_A4
    sheet.page_setup.fitToHeight, sheet.page_setup.fitToWidth = 0, -(-widths // PAGE_WIDTH)
    sheet.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)
    sheet.page_margins.left = sheet.page_margins.right = 0.4  # inches
    sheet.print_title_rows = f"1:{header_rows}"
    if sheet.page_setup.fitToWidth > 1:
        sheet.print_title_cols = f"A:{get_column_letter(sheet[frozen].column - 1)}"


def printed(cell) -> str:
    return f"{cell.value:.2f}" if isinstance(cell.value, float) else str(cell.value or "")


def sheet_name(dataset: str, taken: list[str]) -> str:
    """At most 31 characters, none of those that spreadsheets forbid, and different from those that are there."""
    name = cell_text(re.sub(r"[\[\]:*?/\\']", "_", dataset))[:28].strip() or "_"
    if name.lower() == "history":  # a name that spreadsheets keep for themselves
        name += "_"
    same = sum(other.lower() == name.lower() or other.lower().startswith(name.lower() + "-") for other in taken)
    return f"{name}-{same + 1}" if same else name
