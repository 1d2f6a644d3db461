"""Pastes samples of the same seeds from several runs below one another: `python examples/side_by_side.py OUT.png RUN…`.

The pictures of samples in the README and in `docs/results.md` are made this way.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

COLUMNS, SMALLEST, GAP, MARGIN = 12, 128, 4, 150


def row(run: Path) -> Image.Image:
    """The first samples of a run, side by side, with the run's name before them."""
    paths = sorted((run / "samples" / "default").glob("[0-9]*.png"))[:COLUMNS]
    if not paths:
        sys.exit(f"{run}: has no samples; draw them with `lpl sample {run}`")
    images = [Image.open(path) for path in paths]
    side = max(images[0].width, SMALLEST)
    canvas = Image.new("RGB", (MARGIN + len(images) * (side + GAP), side + GAP), "white")
    ImageDraw.Draw(canvas).text((8, side // 2 - 8), run.name, fill="black", font_size=16)
    for index, image in enumerate(images):
        canvas.paste(image.resize((side, side), Image.Resampling.LANCZOS), (MARGIN + index * (side + GAP), 0))
    return canvas


def main(output: str, *runs: str) -> None:
    """Writes the picture."""
    rows = [row(Path(run)) for run in runs]
    canvas = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    top = 0
    for strip in rows:
        canvas.paste(strip, (0, top))
        top += strip.height
    canvas.save(output, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
