"""Bars as SVG, drawn by hand: readable on white and on black, without a library."""

from __future__ import annotations

from html import escape
from itertools import count
from typing import Final

from bench.figures import Bar, Chart

_WIDTH, _LEFT, _RIGHT = 800, 280, 110
"""Pixels of the picture, of the names, and of the numbers."""
_ROW, _BAR, _MARGIN = 24, 14, 14
_STYLE: Final = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px }
.series { font-weight: 600; fill: #57606a }
.mine { fill: #0969da }
.other { fill: #9aa4b0 }
.spread { stroke: #57606a; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .series { fill: #9198a1 }
  .mine { fill: #4493f8 }
  .other { fill: #656c76 }
  .spread { stroke: #d1d7e0 }
}"""


def drawn(chart: Chart) -> str:
    """Return the text of an SVG file; each picture has a scale of its own, which begins at nothing."""
    bars = [bar for series in chart.series for bar in series.bars]
    longest = max((bound for _, value, spread in bars for bound in (value, *(spread or ()))), default=0) or 1
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    rows = count(1)
    parts = [_text(_MARGIN, _ROW, chart.title, "title")]
    for series in chart.series:
        parts.append(_text(_MARGIN, _middle(next(rows)) + 4, series.title, "series"))
        for bar in series.bars:
            parts += _row(bar, _middle(next(rows)), scale, "mine" if bar[0].startswith(chart.mine) else "other")
    height = _middle(next(rows))
    told = "; ".join(f"{name} {value:,.4g}" for name, value, _ in bars)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img">',
            f"<title>{escape(chart.title)}</title>",
            f"<desc>{escape(told)}</desc>",
            f"<style>\n{_STYLE}\n</style>",
            *parts,
            "</svg>\n",
        ]
    )


def _middle(row: int) -> int:
    return _MARGIN + row * _ROW + _ROW // 2


def _row(bar: Bar, middle: int, scale: float, kind: str) -> list[str]:
    name, value, spread = bar
    length = value * scale
    parts = [
        _text(_MARGIN, middle + 4, name),
        f'<rect class="{kind}" x="{_LEFT}" y="{middle - _BAR // 2}" width="{length:.1f}" height="{_BAR}" rx="2"/>',
    ]
    end = length
    if spread is not None:
        low, high = (_LEFT + bound * scale for bound in spread)
        parts.append(f'<line class="spread" x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}"/>')
        end = max(length, spread[1] * scale)
    parts.append(_text(_LEFT + end + 6, middle + 4, f"{value:,.0f}" if value >= 100 else f"{value:.3g}"))
    return parts


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
