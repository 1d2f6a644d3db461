from __future__ import annotations

import json

import pytest
import torch
from scipy.stats import binom
from typer.testing import CliRunner

from lpl.cli import app
from lpl.config import build_recipe
from lpl.diffusion import make_path
from lpl.training import batch_probe, batch_size, train
from lpl.training.batch_probe import BatchSizeError, GpuProbe, ProcessProbe, most_passing, worst_case, worst_timesteps
from lpl.training.batch_size import MOST, Probe, largest_batch_size, scaled_learning_rate, search, with_batch_size
from lpl.training.batch_size_report import parse_bytes, probe_line


def best_of(probes):
    return max((probe.batch_size for probe in probes if probe.fits), default=None)


@pytest.mark.parametrize("largest", [1, 2, 3, 7, 8, 9, 31, 100, 1000, 12_345])
@pytest.mark.parametrize("fixed", [0, 10**6])
def test_the_largest_batch_is_found_in_few_tries(largest, fixed):
    """Memory is a fixed part and as much for each sample."""
    probes = search(lambda size: fixed + 1000 * size, limit=fixed + 1000 * largest + 999)
    assert (1 - batch_size.TOLERANCE) * largest - 1 < best_of(probes) <= largest
    assert len(probes) <= 12
    assert all(probe.fits == (probe.batch_size <= largest) for probe in probes)


@pytest.mark.parametrize("largest", [1, 5, 77, 3000])
def test_where_memory_runs_out_nothing_is_known_of_its_peak(largest):
    probes = search(lambda size: 100 * size if size <= largest else None, limit=10**12)
    assert (1 - batch_size.TOLERANCE) * largest - 1 < best_of(probes) <= largest
    assert all(probe.peak_bytes is None for probe in probes if not probe.fits)


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_memory_that_is_not_linear_takes_a_few_more(power):
    probes = search(lambda size: int(size**power * 1000), limit=int(500**power * 1000))
    assert 500 * (1 - batch_size.TOLERANCE) - 1 < best_of(probes) <= 500
    assert len(probes) <= 20


def test_no_size_is_tried_that_is_known_to_be_far_too_large():
    """A CPU that runs out of memory ends more than this process."""
    limit = 10**9
    probes = search(lambda size: 10**8 + 10**6 * size, limit)
    assert max(probe.peak_bytes for probe in probes) < 1.1 * limit


def test_noise_and_constant_memory_end_the_search():
    noise = iter([5, 3, 8, 2, 9] * 100)
    assert len(search(lambda size: 1000 * size + next(noise), 10**5)) < 20
    assert best_of(search(lambda size: 7, 10)) == MOST


def test_nothing_fits():
    probes = search(lambda size: 10 * size, limit=5)
    assert best_of(probes) is None
    assert probes[-1].batch_size == 1


def test_every_try_is_reported():
    seen = []
    assert search(lambda size: size, 20, seen.append) == seen


def test_the_learning_rate_is_scaled_linearly(tiny_recipe):
    assert scaled_learning_rate(1e-4, 25, 16) == pytest.approx(1.5625e-4)
    with pytest.raises(ValueError, match="got 0, 16"):
        scaled_learning_rate(1e-4, 0, 16)
    changed = with_batch_size(tiny_recipe(training__learning_rate=2e-3, training__batch_size=4), 6)
    assert (changed.training.batch_size, changed.training.learning_rate) == (6, pytest.approx(3e-3))


def test_a_batch_is_tried_with_the_most_samples_that_pass_the_gate(tiny_recipe):
    """More than that pass in one run of a hundred."""
    perceptual = {"weight": "matched", "sigma_threshold": 1.0, "estimator": {"every": 4}}
    recipe = worst_case(tiny_recipe(objective__perceptual=perceptual, training__steps=500), 64)
    assert recipe.objective.perceptual.weight == 1.0
    assert recipe.objective.perceptual.estimator.every == 1
    path = make_path(recipe.diffusion)
    passing = int((path.sigma(worst_timesteps(recipe)) <= 1.0).sum())
    assert len(worst_timesteps(recipe)) == 64
    assert passing == most_passing(path, 1.0, 64, 500)
    runs = binom.rvs(64, path.probability_below(1.0), size=(2000, 500), random_state=0).max(axis=1)
    assert 0.001 < (runs > passing).mean() <= 0.012


@pytest.mark.parametrize(("threshold", "share"), [(None, None), (1e-9, 0.0), (1e9, 1.0)])
def test_gates_that_leave_all_or_none(tiny_recipe, threshold, share):
    settings = {"objective__perceptual": {"sigma_threshold": threshold}, "training__batch_size": 5000}
    recipe = tiny_recipe(**settings)
    times = worst_timesteps(recipe)
    assert len(times) == 5000
    if share is not None:
        sigma = make_path(recipe.diffusion).sigma(times)
        assert ((sigma <= threshold).double().mean()) == share


def test_a_recipe_without_a_term_has_ordinary_times(tiny_recipe):
    assert len(worst_timesteps(tiny_recipe(training__batch_size=7))) == 7


@pytest.fixture(scope="module")
def found(tmp_path_factory, tiny_autoencoder, tiny_images, latent_caches):
    """A search over real steps of a small denoiser, each in a process of its own."""
    values = {
        "output": str(tmp_path_factory.mktemp("search") / "run"),
        "data": {"source": str(tiny_images), "resolution": 16},
        "autoencoder": {"path": str(tiny_autoencoder)},
        "denoiser": {"preset": "T", "patch_size": 1},
        "objective": {"perceptual": {"weight": "matched", "matching_batches": 2}},
        "training": {"steps": 3, "batch_size": 8, "log_every": 1},
    }
    recipe = build_recipe(values)
    smallest = ProcessProbe(recipe).peak(8)
    return recipe, smallest, largest_batch_size(recipe, smallest + 40 * 2**20)


def test_steps_are_measured_in_processes_of_their_own(found):
    recipe, smallest, result = found
    assert result.memory_of == "process, resident"
    assert smallest < result.peak_bytes <= result.limit_bytes
    assert result.batch_size > 8
    assert result.smallest_too_large - result.batch_size <= max(1, batch_size.TOLERANCE * result.batch_size)
    assert result.probes[0] == Probe(8, pytest.approx(smallest, rel=0.05), True)
    assert not recipe.folder.exists()


def test_training_with_the_batch_found_takes_the_memory_foretold(found, forks, latent_caches, tmp_path):
    """As the trainer itself reports it."""
    recipe, _, result = found
    recipe = with_batch_size(recipe, result.batch_size).model_copy(update={"output": str(tmp_path / "run")})
    child = forks.Process(target=train, args=(recipe,))
    child.start()
    child.join()
    information = json.loads((tmp_path / "run" / "run.json").read_text())
    assert information["status"] == "complete"
    assert information["peak_memory_bytes"] < 1.05 * result.limit_bytes


def test_a_limit_below_a_single_sample_is_named(tiny_recipe, monkeypatch):
    monkeypatch.setattr(ProcessProbe, "peak", lambda self, size: 1000 + size)
    with pytest.raises(BatchSizeError, match="run: a batch of 1 takes 1,001 bytes, the limit is 500"):
        largest_batch_size(tiny_recipe(), 500)
    with pytest.raises(BatchSizeError, match="memory_limit_bytes: got -1"):
        largest_batch_size(tiny_recipe(), -1)


def test_what_a_child_cannot_do_is_told(tiny_recipe):
    """Without waiting for an answer that never comes."""
    probe = ProcessProbe(tiny_recipe())
    probe.values["denoiser"]["patch_size"] = 3
    with pytest.raises(BatchSizeError, match=r"(?s)a step with a batch of 2 failed: .*patch_size"):
        probe.peak(2)


class Pipe:
    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (MemoryError(), (None, None)),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), (None, None)),
        (RuntimeError("shapes differ"), (None, "RuntimeError: shapes differ")),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(tiny_recipe, monkeypatch, error, answer):
    def peak(recipe, size):
        raise error

    monkeypatch.setattr(batch_probe, "peak_of_steps", peak)
    pipe = Pipe()
    batch_probe._answer(pipe, tiny_recipe().model_dump(), 4, torch.get_num_threads())
    assert pipe.sent == [answer]


def test_a_gpu_that_runs_out_of_memory(tiny_recipe, monkeypatch):
    """By a stand-in for the GPU, which allows 50 bytes a sample."""
    fractions = []

    def steps(recipe, size):
        if size * 50 > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return size * 50

    properties = type("Properties", (), {"total_memory": 4000})
    monkeypatch.setattr(batch_probe, "_encode", lambda recipe: None)
    monkeypatch.setattr(batch_probe, "peak_of_steps", steps)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    probe = GpuProbe(tiny_recipe(), limit=1000)
    assert probe.peak(20) == 1000
    assert probe.peak(21) is None
    assert fractions == [0.25, 1.0, 0.25, 1.0]


@pytest.mark.parametrize(
    ("text", "count"),
    [("4GiB", 4 * 2**30), ("500 MB", 500 * 10**6), ("1.5gib", 3 * 2**29), ("123456", 123456), ("2K", 2000)],
)
def test_sizes_are_read(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "much", "4 GiBs", "-3GB", "0", "1.2.3GB"])
def test_other_sizes_are_refused(text):
    with pytest.raises(BatchSizeError, match="takes a size such as 4GiB"):
        parse_bytes(text)


def test_the_command_prints_settings_to_paste(tmp_path, monkeypatch, tiny_autoencoder, tiny_images, latent_caches):
    monkeypatch.setattr(ProcessProbe, "peak", lambda self, size: size * 2**20)
    recipe = tmp_path / "recipe.yaml"
    data = f"data: {{source: {tiny_images}, resolution: 16}}\nautoencoder: {{path: {tiny_autoencoder}}}\n"
    recipe.write_text(f"name: mine\n{data}training: {{batch_size: 16, learning_rate: 1.0e-3}}\n")
    result = CliRunner().invoke(app, ["find-batch-size", str(recipe), "--memory", "32MiB"])
    assert result.exit_code == 0, result.output
    assert "batch 8: 0.01 GiB, fits" in result.output
    assert "training.batch_size=32 training.learning_rate=0.002" in result.output
    assert probe_line(Probe(1, None, False)) == "batch 1: out of memory, too large"
