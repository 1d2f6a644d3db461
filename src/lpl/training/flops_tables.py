"""Tables of counted operations for the terminal: of a recipe's own iteration, and of the paper's beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..config import Recipe
from ..diffusion import make_path
from .flops import FlopCount, iteration_flops
from .published_flops import (
    SIGMA_THRESHOLD,
    TERA,
    Candidate,
    ModelFlops,
    Published,
    candidates,
    gate_share,
    model_flops,
    published_at,
)

READINGS = 3  # of each of the paper's numbers, the nearest ones
CONVENTION = (
    "A multiply-add counts as two operations. Counted are convolutions, matrix products and attention, forward and "
    "backward; training reads latents that were encoded beforehand, so no encoder is."
)


def recipe_table(recipe: Recipe) -> RenderableType:
    """A recipe's iteration without and with the perceptual term.

    Raises:
        FlopsError: its perceptual term is of a kind that is not counted.
        FileNotFoundError: there is no such autoencoder.
    """
    plain = iteration_flops(recipe, with_perceptual=False)
    rows = {
        "without LPL": plain,
        "with LPL": iteration_flops(recipe, with_perceptual=True),
        "with LPL, upsampling not folded": iteration_flops(recipe, with_perceptual=True, lean=False),
    }
    table = _table(f"{recipe.name}: operations of a training iteration", _recipe_caption(recipe, rows["with LPL"]))
    for heading in ("", "denoiser, a sample", "LPL, a passing sample", "iteration", "to without"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, count in rows.items():
        numbers = (count.denoiser, count.perceptual, count.total)
        table.add_row(name, *(_prefixed(value) for value in numbers), f"×{count.total / plain.total:.2f}")
    return table


def published_tables(preset: str, resolutions: Sequence[int]) -> RenderableType:
    """A denoiser of the paper's kind with the paper's decoders and, for XL, the paper's numbers beside ours.

    Raises:
        RecipeError: there is no such preset.
        ValueError: a resolution that does not fit.
    """
    counted = [model_flops(preset, resolution) for resolution in resolutions]
    parts: list[RenderableType] = [_sample_table(preset, counted)]
    for flops in counted:
        published = published_at(flops.resolution) if preset == "XL" else None
        if published is not None:
            parts.append(_candidate_table(flops, published))
    if len(parts) > 1:
        parts.append(Text(_verdict(counted), style="italic"))
    return Group(*parts)


def _recipe_caption(recipe: Recipe, count: FlopCount) -> str:
    accumulation = f" × {recipe.training.accumulation} passes" if recipe.training.accumulation > 1 else ""
    gate = f"{count.passing:.1%} of the samples pass the gate on {type(make_path(recipe.diffusion)).__name__}'s times."
    return f"Of one process, batch {recipe.training.batch_size}{accumulation}. {gate} {CONVENTION}"


def _sample_table(preset: str, counted: Sequence[ModelFlops]) -> Table:
    table = _table(f"MMDiT-{preset}/2: 10¹² operations of one sample", CONVENTION)
    table.add_column("")
    for flops in counted:
        table.add_column(f"{flops.resolution}²", justify="right")
    table.add_row("denoiser", *(_tera(flops.denoiser) for flops in counted))
    table.add_row("denoiser, gradient checkpointing", *(_tera(flops.checkpointed) for flops in counted))
    for name in counted[0].perceptual:
        table.add_row(f"LPL, {name}", *(_tera(flops.perceptual[name][-1]) for flops in counted))
        table.add_row(f"LPL, {name}, upsampling folded", *(_tera(flops.lean[name]) for flops in counted))
    return table


def _candidate_table(flops: ModelFlops, published: Published) -> Table:
    title = f"Table 8 at {published.resolution}²: 10¹² operations of an iteration, as ours may be read"
    table = _table(title, f"Batch {published.batch_size} a GPU: {published.batch_size_from}. LPL: {_gate()}")
    for heading, justify in (("reading", "left"), ("ours", "right"), ("paper", "right"), ("difference", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    plain, added = candidates(flops, published)
    for title, readings in (("without LPL", plain), ("added by LPL", added)):
        table.add_section()
        for candidate in readings[:READINGS]:
            table.add_row(f"{title}: {candidate.reading}", *_numbers(candidate))
    return table


def _gate() -> str:
    return f"the {gate_share():.1%} of samples with σ ≤ {SIGMA_THRESHOLD:g} on DDPM's times."


def _numbers(candidate: Candidate) -> Iterator[str]:
    yield f"{candidate.operations:.1f}"
    yield f"{candidate.published:.1f}"
    yield f"{candidate.difference:+.1%}"


def _verdict(counted: Sequence[ModelFlops]) -> str:
    """The nearest readings, and how near they are."""
    nearest: dict[str, list[str]] = {}
    for flops in counted:
        published = published_at(flops.resolution)
        if published is not None:
            for name, readings in zip(("without LPL", "added by LPL"), candidates(flops, published), strict=True):
                best = readings[0]
                found = nearest.setdefault(f"{name}: {best.reading}", [])
                found.append(f"{best.difference:+.1%} at {flops.resolution}²")
    lines = [f"{reading} ({', '.join(found)})" for reading, found in nearest.items()]
    return "Nearest to the paper is\n  " + "\n  ".join(lines) + "\nThe paper does not say how it counted."


def _table(title: str, caption: str) -> Table:
    return Table(title=title, caption=caption, title_justify="left", caption_justify="left")


def _tera(operations: float) -> str:
    return f"{operations / TERA:.4g}"


def _prefixed(operations: float) -> str:
    """With the prefix that suits the size, since recipes differ by a factor of a million."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if operations >= size:
            return f"{operations / size:.4g} {prefix}"
    return f"{operations / 1e6:.4g} M" if operations else "–"
