from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from lpl.analysis import AnalysisError, study_perturbation
from lpl.analysis.perturbation import check_positions, noise_vectors, perturbed, radius_of
from lpl.autoencoders import Autoencoder


class Nearest(nn.Module):
    """A decoder whose pixels depend on the latent position below them alone."""

    def __init__(self, spill: float = 0.0) -> None:
        super().__init__()
        self.spill = spill

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        image = latents[:, :3].repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        return image + self.spill * latents[:, :3].mean(dim=(2, 3), keepdim=True)


class FakeAutoencoder:
    """What the study needs of an autoencoder."""

    def __init__(self, spill: float = 0.0) -> None:
        self.model = Nearest(spill)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.model.decode(latents)


def small_latents(count: int = 2) -> torch.Tensor:
    return 0.1 * torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_a_local_decoder_has_local_errors() -> None:
    latents = small_latents()
    study = study_perturbation(FakeAutoencoder(), latents, window_radius=0)
    variance = latents.var(dim=(0, 2, 3))
    for image in study.images:
        torch.testing.assert_close(image.local_share, torch.ones(36))
        expected = study.noise[0].square().mean() / 36  # of one position's pixels, spread over all 36
        torch.testing.assert_close(image.error, expected.expand(36), rtol=1e-4, atol=1e-9)
    assert study.noise.shape == (1, 3)
    many = noise_vectors(latents, variance=0.5, draws=4000, seed=1)
    np.testing.assert_allclose(many.var(dim=0), 0.5 * variance, rtol=0.1)


def test_spilled_error_is_the_global_share() -> None:
    """Noise n changes its own cell by n(1 + s/36) and each other one by n·s/36."""
    spill = 6.0
    study = study_perturbation(FakeAutoencoder(spill), small_latents(1), window_radius=1)
    shares = study.images[0].local_share.reshape(6, 6)
    own, other = (1 + spill / 36) ** 2, (spill / 36) ** 2
    for (row, column), cells in (((2, 2), 9), ((0, 0), 4), ((0, 3), 6)):
        expected = (own + (cells - 1) * other) / (own + 35 * other)
        assert shares[row, column].item() == pytest.approx(expected, rel=1e-4)
    whole = study.images[0]
    far = sum(float(error * (1 - share)) for error, share in zip(whole.error, whole.local_share, strict=True))
    assert whole.global_share == pytest.approx(far / float(whole.error.sum()), rel=1e-5)


def test_against_a_loop_over_positions() -> None:
    autoencoder = Autoencoder(zoo.make("stable_diffusion"))
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    chosen = [(0, 0), (3, 1), (2, 2)]
    study = study_perturbation(autoencoder, latents, chosen, window_radius=1, draws=2, batch_size=2)
    reference = autoencoder.decode(latents)
    for index, (row, column) in enumerate(chosen):
        total, outside = [], []
        for noise in study.noise:
            moved = latents.clone()
            moved[0, :, row, column] += noise
            change = (autoencoder.decode(moved) - reference).square().mean(dim=1)[0].numpy()
            far = np.ones((32, 32), dtype=bool)
            far[max(row - 1, 0) * 8 : (row + 2) * 8, max(column - 1, 0) * 8 : (column + 2) * 8] = False
            total.append(change.mean())
            outside.append(change[far].sum() / 1024)
        image = study.images[0]
        assert image.error[index].item() == pytest.approx(np.mean(total), rel=1e-4)
        assert 1 - image.local_share[index].item() == pytest.approx(np.mean(outside) / np.mean(total), rel=1e-3)
    assert set(study.explained_by) == {"latent_norm", "contrast"}


def test_noise_goes_to_one_position() -> None:
    latent, noise = torch.zeros(3, 4, 5), torch.tensor([1.0, 2.0, 3.0])
    copies = perturbed(latent, [(1, 4), (3, 0)], noise)
    expected = torch.zeros(2, 3, 4, 5)
    expected[0, :, 1, 4] = noise
    expected[1, :, 3, 0] = noise
    assert torch.equal(copies, expected)


def test_radius_holds_at_least_the_share() -> None:
    shares = torch.tensor([[0.4, 0.6, 0.95, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert radius_of(shares, 0.5).tolist() == [1, 0]
    assert radius_of(shares, 0.99).tolist() == [3, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": [(0, 6)]}, r"\(0, 6\) lies outside the latent; rows are 0 to 5 and columns 0 to 5"),
        ({"positions": [(-1, 0)]}, r"\(-1, 0\) lies outside"),
        ({"positions": []}, "positions: got none"),
        ({"variance": 0.0}, "variance: got 0"),
        ({"draws": 0}, "draws: got 0"),
        ({"window_radius": 3}, "latents of 6×6 take 0 to 2"),
    ],
)
def test_impossible_settings_are_named(options: dict, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        study_perturbation(FakeAutoencoder(), small_latents(), **options)


def test_all_positions_by_default() -> None:
    assert check_positions(None, (2, 3)) == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))
