"""The frame of the pages that we write: one file, no script or style from elsewhere, tables that sort on a click."""

import html

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
body.wide { max-width: none }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th:first-child, td:first-child, .words { text-align: left }
th.sorts { cursor: pointer; position: sticky; top: 0; background: #fff }
small { color: #777 }
.better, .kept { color: #08703a } .worse, .dropped, .warning { color: #b00020 } .warned { color: #8a5a00 }
"""
SORT = """
for (const head of document.querySelectorAll('th.sorts')) head.onclick = () => {
  const table = head.closest('table'), column = head.cellIndex, down = head.dataset.down = head.dataset.down ? '' : '1'
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent
  const compare = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b
  const rows = [...table.tBodies[0].rows].sort((a, b) => compare(value(a), value(b)) * (down ? -1 : 1))
  table.tBodies[0].append(...rows)
}
"""


def document(title: str, body: str, *, style: str = "", wide: bool = False, sorts: bool = False) -> str:
    """A whole HTML page. body: HTML; title: plain text. sorts: a click on a <th class="sorts"> sorts its table."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}{style}</style>'
    script = f"<script>{SORT}</script>" if sorts else ""
    frame = ' class="wide"' if wide else ""
    title = f"<h1>{html.escape(title)}</h1>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body{frame}>{title}{body}{script}</body></html>\n'
