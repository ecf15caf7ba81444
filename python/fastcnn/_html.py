"""Pieces of a page that stands alone: escaped text, tables, figures as data URIs; no scripts, nothing to load.

What a report says is in report.py.
"""

from __future__ import annotations

import base64
import html
import io

import numpy as np

from ._files import legible

_STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --back: #f6f8fa; --mark: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: white; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 12px; padding-bottom: 4px; border-bottom: 1px solid var(--line); }
p { margin: 6px 0 12px; } .soft { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 12px; margin: 20px 0 8px; }
.card { background: var(--back); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.card b { display: block; font-size: 22px; font-weight: 600; } .card span { color: var(--soft); font-size: 13px; }
img.wide { display: block; max-width: 100%; height: auto; margin: 8px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 14px; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 14px; }
figure { margin: 0; } figure img { width: 100%; display: block; border-radius: 4px; border: 1px solid var(--line); }
img.pixels { image-rendering: pixelated; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }
figcaption { font-size: 12.5px; line-height: 1.35; margin-top: 4px; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
th, td { text-align: right; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, .text td, .text th { text-align: left; } th { color: var(--soft); font-weight: 600; }
details { margin: 12px 0; } summary { cursor: pointer; color: var(--mark); }
pre { background: var(--back); border: 1px solid var(--line); border-radius: 8px; padding: 12px; overflow-x: auto;
  font: 12px/1.45 ui-monospace, "Liberation Mono", monospace; }
nav a { color: var(--mark); margin-right: 16px; text-decoration: none; }
"""


def text(value):
    """Any value as escaped text."""
    return html.escape(legible(value), quote=True)


def page(title, body):
    """The whole document; the policy in its head forbids whatever would be loaded from elsewhere."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(name, heading, *parts):
    """A heading that can be linked to, and what follows."""
    inner = "\n".join(p for p in parts if p)
    return f'<section id="{text(name)}">\n<h2>{text(heading)}</h2>\n{inner}\n</section>'


def cards(values):
    """Large numbers: {label: value as text}."""
    items = (f'<div class="card"><b>{text(v)}</b><span>{text(k)}</span></div>' for k, v in values.items())
    return f'<div class="cards">{"".join(items)}</div>'


def table(head, rows, words=False):
    """A table; words: all columns hold text, else all but the first hold numbers."""
    top = "".join(f"<th>{text(h)}</th>" for h in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{text(c)}</td>" for c in row) + "</tr>" for row in rows)
    kind = ' class="text"' if words else ""
    return f'<div class="scroll"><table{kind}>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>'


def details(label, inner):
    """What is shown on demand."""
    return f"<details><summary>{text(label)}</summary>\n{inner}\n</details>"


def _uri(data, kind):
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def drawing(figure, alt):
    """A matplotlib Figure as an inline vector picture."""
    buffer = io.BytesIO()
    # Without a date and with fixed names the same run gives the same bytes.
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "fastcnn"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    width = round(figure.get_figwidth() * 80)
    return f'<img class="wide" width="{width}" alt="{text(alt)}" src="{_uri(buffer.getvalue(), "image/svg+xml")}">'


def image(pixels, alt):
    """Pixels (H, W, 1 or 3) in [0, 1] as an inline PNG; small ones are shown with sharp edges."""
    from matplotlib.image import imsave

    pixels = np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels
    buffer = io.BytesIO()
    imsave(buffer, np.clip(np.asarray(pixels, np.float32), 0, 1), format="png", metadata={"Software": None})
    kind = ' class="pixels"' if max(pixels.shape[:2]) <= 64 else ""
    return f'<img{kind} alt="{text(alt)}" src="{_uri(buffer.getvalue(), "image/png")}">'


def figure(inner, caption):
    """Pictures over a caption, whose lines are escaped."""
    lines = "<br>".join(text(line) for line in caption)
    return f"<figure>{inner}<figcaption>{lines}</figcaption></figure>"
