"""`lpl analyze …` and `lpl calibrate`: from an autoencoder and pictures to numbers, figures and settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..errors import explained

if TYPE_CHECKING:
    from ..autoencoders import Autoencoder
    from .inputs import Pictures

analyze = typer.Typer(help="See what an autoencoder's latent space does.", no_args_is_help=True)

AutoencoderName = Annotated[str, typer.Argument(help='"demo", a folder, or a name on the hub', show_default=False)]
DataName = Annotated[
    str, typer.Argument(help='"photographs", a folder, parquet, tar shards or a hub name', show_default=False)
]
Resolution = Annotated[int, typer.Option(min=1, help="pixels a side")]
Limit = Annotated[int, typer.Option(min=1, help="images, drawn from the data, the same every time")]
Shown = Annotated[int, typer.Option(min=1, help="images whose pictures are written")]
Block = Annotated[list[str] | None, typer.Option(help="a decoder block; repeat for several; all by default")]
Subfolder = Annotated[str | None, typer.Option(help='where the autoencoder lies within a pipeline, often "vae"')]
Split = Annotated[str, typer.Option(help="of the bundled photographs and hub data sets")]
ImageColumn = Annotated[str, typer.Option(help="of parquet files and hub data sets")]
Output = Annotated[Path | None, typer.Option(help="folder for results; analysis/NAME by default", show_default=False)]
Device = Annotated[str, typer.Option(help="where to run")]
Seed = Annotated[int, typer.Option(min=0, help="of everything random")]


@analyze.command()
def interpolation(
    autoencoder: AutoencoderName,
    data: DataName,
    scale: Annotated[list[float] | None, typer.Option(help="s, repeat for several; 1.3 1.5 2 3 4 by default")] = None,
    extractor: Annotated[str, typer.Option(help="one more damage: as evaluation.extractor of a recipe")] = "none",
    outliers: Annotated[str, typer.Option(help="blocks to mask: deep, all or none")] = "deep",
    block: Block = None,
    resolution: Resolution = 128,
    limit: Limit = 16,
    pictures: Shown = 4,
    subfolder: Subfolder = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    output: Output = None,
    device: Device = "cpu",
) -> None:
    """Figure 11: shrinks latents and pictures by 1/s and back; which measures see the damage?"""
    from ..evaluation import load_extractor
    from .inputs import tracked
    from .interpolation import study_interpolation
    from .records.interpolation import record_interpolation
    from .summaries import advantage_table, claims_table, interpolation_table
    from .variants import SCALES

    with explained():
        job = _Job("interpolation", autoencoder, subfolder, device, output)
        images = job.open(data, resolution, limit, split, image_column)
        study = study_interpolation(
            job.autoencoder,
            images.images,
            tuple(scale or SCALES),
            block,
            masked=_choice("outliers", outliers, ("deep", "all", "none")),
            extractor=None if extractor == "none" else load_extractor(extractor, device),
            pictures=pictures,
            track=tracked,
        )
        settings = {"scales": scale or SCALES, "extractor": extractor, "outliers": outliers, "blocks": block}
        tables = [interpolation_table(study, "all"), interpolation_table(study, "latent")]
        tables += [advantage_table(study), claims_table(study)]
        job.finish(images, settings, record_interpolation(job.folder, study, images), tables)


@analyze.command()
def perturbation(
    autoencoder: AutoencoderName,
    data: DataName,
    position: Annotated[
        list[str] | None, typer.Option(help="ROW,COLUMN of the latent; repeat for several; all by default")
    ] = None,
    variance: Annotated[float, typer.Option(help="of the noise, over the latents'")] = 0.5,
    window_radius: Annotated[int, typer.Option(help="latent positions on each side that count as local")] = 1,
    draws: Annotated[int, typer.Option(help="noise vectors to average over")] = 1,
    resolution: Resolution = 128,
    limit: Limit = 2,
    statistics: Annotated[int, typer.Option(min=1, help="images that the latents' variance is taken over")] = 16,
    seed: Seed = 0,
    subfolder: Subfolder = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    output: Output = None,
    device: Device = "cpu",
) -> None:
    """Figure 12: adds noise to one latent position at a time; what changes, near it and far away?"""
    from .inputs import encode, open_pictures, tracked
    from .perturbation import study_perturbation
    from .records.perturbation import record_perturbation
    from .summaries import perturbation_table

    with explained():
        job = _Job("perturbation", autoencoder, subfolder, device, output)
        images = job.open(data, resolution, limit, split, image_column)
        others = open_pictures(data, resolution, max(limit, statistics), split, image_column)
        study = study_perturbation(
            job.autoencoder,
            encode(job.autoencoder, images.images),
            [_position(text) for text in position] if position else None,
            encode(job.autoencoder, others.images),
            variance,
            window_radius,
            draws,
            seed,
            track=tracked,
        )
        settings = {"variance": variance, "draws": draws, "statistics": len(others.images), "seed": seed}
        job.finish(images, settings, record_perturbation(job.folder, study, images), [perturbation_table(study)])


@analyze.command()
def features(
    autoencoder: AutoencoderName,
    data: DataName,
    block: Block = None,
    channel: Annotated[
        list[int] | None, typer.Option(help="to show; those with the largest outliers by default")
    ] = None,
    channels: Annotated[int, typer.Option(min=1, help="channels of each block to show")] = 3,
    resolution: Resolution = 128,
    limit: Limit = 16,
    pictures: Shown = 2,
    subfolder: Subfolder = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    output: Output = None,
    device: Device = "cpu",
) -> None:
    """Figure 13: the decoder's feature maps, their outliers, and what Algorithm 1 masks."""
    from .features import study_features
    from .inputs import decoder_features, encode, tracked
    from .records.features import choose_channels, maps_of, record_features
    from .summaries import features_table

    with explained():
        job = _Job("features", autoencoder, subfolder, device, output)
        decoder = decoder_features(job.autoencoder, block)
        images = job.open(data, resolution, limit, split, image_column)
        latents = encode(job.autoencoder, images.images, track=tracked)
        study = study_features(decoder, latents, track=tracked)
        shown = choose_channels(study, channel, channels)
        maps = [maps_of(decoder, latent) for latent in latents[:pictures]]
        settings = {"blocks": block, "channels_shown": shown}
        job.finish(images, settings, record_features(job.folder, study, images, maps, shown), [features_table(study)])


@analyze.command()
def linear(
    autoencoder: AutoencoderName,
    data: DataName,
    steps: Annotated[int, typer.Option(help="products with JᵀJ; more bring the smallest eigenvalue closer")] = 200,
    probes: Annotated[int, typer.Option(help="random vectors for each trace")] = 4,
    metrics: Annotated[int, typer.Option(min=1, help="latents at which JᵀJ is looked at")] = 2,
    step_length: Annotated[float, typer.Option(help="of the steps shown, over the latent's norm")] = 0.1,
    resolution: Resolution = 64,
    limit: Limit = 8,
    statistics: Annotated[int, typer.Option(min=1, help="images that the Gaussian behind ẑ0 is fitted to")] = 64,
    seed: Seed = 0,
    subfolder: Subfolder = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    output: Output = None,
    device: Device = "cpu",
) -> None:
    """A.1: equations (4)–(12) for a linear decoder; JᵀJ and the linear approximation of the real one."""
    from .inputs import encode, open_pictures, tracked
    from .linear import SHAPES, check_linear_decoder
    from .local import metric_at, study_predictions, study_taylor
    from .predictors import fit_gaussian
    from .records.linear import record_linear
    from .summaries import linear_table

    with explained():
        job = _Job("linear", autoencoder, subfolder, device, output)
        images = job.open(data, resolution, limit, split, image_column)
        others = open_pictures(data, resolution, max(limit, statistics), split, image_column)
        everything = encode(job.autoencoder, others.images, track=tracked)  # a larger limit only adds images
        latents = everything[: len(images.images)]
        checks = [check_linear_decoder(shape, seed=seed) for shape in SHAPES]
        found = [
            metric_at(job.autoencoder, latents[i : i + 1], steps, probes, step_length, seed, tracked)
            for i in range(min(metrics, len(latents)))
        ]
        taylor = study_taylor(job.autoencoder, latents, seed=seed, track=tracked)
        predictions = study_predictions(job.autoencoder, latents, fit_gaussian(everything), seed=seed, track=tracked)
        settings = {"steps": steps, "probes": probes, "step_length": step_length, "seed": seed}
        settings["statistics"] = len(others.images)
        record = record_linear(job.folder, checks, found, taylor, predictions, images, everything, step_length)
        job.finish(images, settings, record, [linear_table(checks, found, taylor, predictions)])


def calibrate(
    autoencoder: AutoencoderName,
    data: DataName,
    denoiser: Annotated[
        Path | None, typer.Option(help="a run whose denoiser predicts ẑ0; a Gaussian stands in without")
    ] = None,
    path: Annotated[str, typer.Option(help="flow_ot or ddpm; the run's where a denoiser is given")] = "flow_ot",
    prediction_type: Annotated[str, typer.Option(help="of ddpm: epsilon, v_prediction or sample")] = "epsilon",
    block: Block = None,
    gradient_images: Annotated[int, typer.Option(min=2, help="images whose gradients are measured")] = 8,
    resolution: Resolution = 128,
    limit: Limit = 32,
    seed: Seed = 0,
    subfolder: Subfolder = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    output: Output = None,
    device: Device = "cpu",
) -> None:
    """Chooses blocks, ω_l, mask, τ_σ and w for an autoencoder, with the reason for each, and writes a recipe."""
    from ..config import DiffusionConfig
    from ..diffusion.paths import make_path
    from .calibrate import calibrate_loss
    from .inputs import encode, tracked
    from .predictors import open_denoiser
    from .records.calibration import record_calibration
    from .summaries import block_table, calibration_table, noise_table

    with explained():
        job = _Job("calibration", autoencoder, subfolder, device, output)
        run = None if denoiser is None else open_denoiser(denoiser, job.autoencoder, resolution)
        if run is None:
            predictions = _choice("prediction_type", prediction_type, ("epsilon", "v_prediction", "sample"))
            config = DiffusionConfig(path=_choice("path", path, ("flow_ot", "ddpm")), prediction_type=predictions)
        else:
            config = run.recipe.diffusion
        label_column = None if run is None else run.recipe.data.label_column
        images = job.open(data, resolution, limit, split, image_column, label_column)
        predictor = None if run is None else run.predictor(images)
        latents = encode(job.autoencoder, images.images, track=tracked)
        calibration = calibrate_loss(
            job.autoencoder, latents, make_path(config), predictor, block, gradient_images, seed=seed, track=tracked
        )
        settings = {"diffusion": config.model_dump(mode="json"), "gradient_images": gradient_images, "seed": seed}
        comments = [
            f"Chosen by `lpl calibrate {autoencoder} {data}` at {resolution}×{resolution} pixels,",
            f"{config.path}, ẑ0 by {calibration.chosen.predictor}.",
        ]
        record = record_calibration(job.folder, calibration, images, comments)
        tables = [noise_table(calibration), block_table(calibration), calibration_table(calibration)]
        job.finish(images, settings, record, tables)


class _Job:
    """One command's autoencoder and folder."""

    def __init__(self, name: str, path: str, subfolder: str | None, device: str, output: Path | None) -> None:
        import torch

        from ..autoencoders import load_autoencoder
        from .inputs import AnalysisError
        from .output import AnalysisFolder

        self.path, self.subfolder = path, subfolder
        self.folder = AnalysisFolder(output or Path("analysis") / name, name)
        _check_device(device)
        torch.backends.cudnn.allow_tf32 = False  # coarser than the errors and eigenvalues looked at
        try:
            self.autoencoder: Autoencoder = load_autoencoder(path, subfolder, device=device)
        except (ValueError, FileNotFoundError) as error:
            raise AnalysisError(f"autoencoder: {error}") from error

    def open(
        self, data: str, resolution: int, limit: int, split: str, image_column: str, label_column: str | None = None
    ) -> Pictures:
        """The images, once their size is known to suit the autoencoder."""
        from .inputs import check_resolution, open_pictures

        check_resolution(self.autoencoder, resolution)
        return open_pictures(data, resolution, limit, split, image_column, label_column)

    def finish(self, images: Pictures, settings: dict[str, Any], record: tuple[Any, Any], tables: list[Any]) -> None:
        """Writes the JSON file and says what was found and where it lies."""
        from .output import describe_autoencoder

        described = describe_autoencoder(self.autoencoder, self.path, self.subfolder)
        written = self.folder.write(described, images, settings, *record)
        console = Console()
        for table in tables:
            console.print(table)
        console.print(f"Written: {written} and {len(self.folder.figures)} figures", markup=False, highlight=False)


def _check_device(name: str) -> None:
    """Refuses what is no device of this machine."""
    import torch

    from .inputs import AnalysisError

    try:
        torch.zeros((), device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each kind of device fails in its own way
        reason = str(error).splitlines()[0]
        raise AnalysisError(f"device: got {name!r}, takes cpu, or a GPU that torch finds here ({reason})") from error


def _position(text: str) -> tuple[int, int]:
    from .inputs import AnalysisError

    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise AnalysisError(f"position: got {text!r}, takes ROW,COLUMN such as 3,5") from None
    return row, column


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> Any:
    from .inputs import AnalysisError

    if value not in allowed:
        raise AnalysisError(f"{name}: got {value!r}, takes {', '.join(allowed)}")
    return value
