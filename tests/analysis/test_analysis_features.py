from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis

import zoo
from lpl.analysis import AnalysisError, study_features
from lpl.analysis.features import HISTOGRAM_EDGES, NORM_SHARES, QUANTILES
from lpl.analysis.inputs import decoder_features
from lpl.analysis.maps import mask_with, masked_norms, masked_shares, position_norms
from lpl.autoencoders import Autoencoder
from references import appendix_listing


@pytest.fixture(scope="module")
def measured():
    """The study of one tiny decoder, and the maps it looked at, block → (N, C, H, W) float64."""
    features = decoder_features(Autoencoder(zoo.make("stable_diffusion")), ["mid_block", "up_blocks.3"])
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = {name: values.double().numpy() for name, values in features(latents).items()}
    return study_features(features, latents, sweeps={"offset": (0.5, 2.0, 4.0)}, batch_size=2), maps


def test_moments_are_scipys(measured) -> None:
    study, maps = measured
    for name, values in maps.items():
        flat = values.reshape(*values.shape[:2], -1)
        channels = study.blocks[name].channels
        np.testing.assert_allclose(channels.mean, flat.mean(axis=(0, 2)), atol=1e-4)
        np.testing.assert_allclose(channels.std, flat.std(axis=2).mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(channels.kurtosis, kurtosis(flat, axis=2).mean(axis=0), rtol=1e-3, atol=1e-3)
        scores = (flat - flat.mean(axis=2, keepdims=True)) / flat.std(axis=2, keepdims=True)
        np.testing.assert_allclose(channels.largest, np.abs(scores).max(axis=(0, 2)), rtol=1e-4)
        edges = np.array(HISTOGRAM_EDGES, dtype=np.float64)
        counts = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0]
        np.testing.assert_allclose(study.blocks[name].histogram, counts / counts.sum(), atol=2e-4)


def test_quantiles_of_small_maps_are_exact(measured) -> None:
    study, maps = measured
    values = maps["mid_block"].transpose(1, 0, 2, 3).reshape(64, -1)
    expected = np.quantile(values, QUANTILES, axis=1, method="nearest").T
    np.testing.assert_allclose(study.blocks["mid_block"].channels.quantiles, expected, rtol=1e-4, atol=1e-4)


def test_masks_are_algorithm_1s(measured) -> None:
    study, maps = measured
    values, block = maps["up_blocks.3"], study.blocks["up_blocks.3"]
    assert block.down_f == 1.0
    assert block.masked_by_default
    masks = np.stack([[appendix_listing(channel, 1.0) for channel in image] for image in values.astype(np.float32)])
    np.testing.assert_allclose(block.channels.masked_share, (~masks).mean(axis=(0, 2, 3)), atol=1e-6)
    energy = (values - values.mean(axis=(2, 3), keepdims=True)) ** 2
    share = (energy * ~masks).sum(axis=(2, 3)) / energy.sum(axis=(2, 3))
    np.testing.assert_allclose(block.channels.masked_energy, share.mean(axis=0), rtol=1e-3, atol=1e-5)
    worst = int(np.argmax((~masks).sum(axis=(0, 2, 3))))
    kept = [kurtosis(image[worst][mask[worst]]) for image, mask in zip(values, masks, strict=True)]
    assert block.channels.kept_kurtosis[worst].item() == pytest.approx(np.mean(kept), abs=2e-2)


def test_the_sweep_passes_through_the_defaults(measured) -> None:
    study, _ = measured
    (sweep,) = study.sweeps
    for name, block in study.blocks.items():
        assert sweep.masked_share[name][1] == pytest.approx(float(block.channels.masked_share.mean()), rel=1e-5)
        assert list(sweep.masked_share[name]) == sorted(sweep.masked_share[name], reverse=True)


def test_one_outlier_is_found_masked_and_ranked_first() -> None:
    class Spike(torch.nn.Module):
        """Normal maps, one of which has a patch a hundred times as large, and a constant one."""

        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            maps = torch.randn(len(latents), 5, 40, 40, generator=torch.Generator().manual_seed(1))
            maps[:, 3, 10:13, 20:23] = 100.0
            maps[:, 4] = 2.0
            return maps

    from lpl.autoencoders import DecoderFeatures

    block = study_features(
        DecoderFeatures(torch.nn.Sequential(Spike()), ["0"]), torch.zeros(2, 1, 1, 1), sweeps={}
    ).blocks["0"]
    assert block.rank_by_outliers[0] == 3
    assert block.channels.masked_energy[3] > 0.95
    assert block.channels.masked_share[3] == pytest.approx(25 / 1600, rel=0.5)  # 3×3 and the margin of the opening
    assert block.channels.kurtosis[3] > 100
    assert abs(float(block.channels.kept_kurtosis[3])) < 0.5
    assert block.dead.tolist() == [4]
    assert block.weak.tolist() == [4]


def test_shares_of_a_mask_by_hand() -> None:
    maps = torch.tensor([[[[0.0, 0.0], [0.0, 4.0]]]])  # mean 1: energy 1, 1, 1, 9
    mask = torch.tensor([[[[True, True], [True, False]]]])
    positions, energy = masked_shares(maps, mask)
    assert positions.item() == 0.25
    assert energy.item() == pytest.approx(0.75)


def test_parameters_reach_algorithm_1() -> None:
    maps = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    assert mask_with(maps, 1.0, offset=10.0).all()
    assert not mask_with(maps, 1.0, quantile=0.2, offset=0.0, closing=1).all()


def test_unknown_parameters_are_named() -> None:
    features = decoder_features(Autoencoder(zoo.make("tiny")))
    with pytest.raises(AnalysisError, match=r"got \['window'\], Algorithm 1 has quantile, offset, opening, closing"):
        study_features(features, torch.zeros(1, 4, 4, 4), sweeps={"window": (1.0,)})


def test_norms_of_masked_activations_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 3.0], [1.0, 12.0]], [[1.0, 2.0], [3.0, 4.0]], [[5.0, 5.0], [5.0, 9.0]]]])
    mask = torch.ones_like(maps, dtype=torch.bool)
    mask[0, 0, 0, 1] = mask[0, 0, 1, 1] = mask[0, 2, 1, 1] = False
    mask[0, 0, 0, 0] = True
    norms = masked_norms(maps, mask)
    assert norms[0, 0] == float("inf")  # the kept ones are both 1
    assert norms[0, 1] == 0
    maps[0, 0, 0, 0] = -1.0  # kept: −1 and 1, mean 0, rms 1; masked: 3 and 12
    assert masked_norms(maps, mask)[0, 0].item() == pytest.approx(np.sqrt((9 + 144) / 2))


def test_norms_of_positions(measured) -> None:
    study, maps = measured
    for name, values in maps.items():
        centred = values - values.mean(axis=(2, 3), keepdims=True)
        norms = np.sort(np.linalg.norm(centred, axis=1).reshape(len(values), -1), axis=1)
        norms = norms / norms[:, norms.shape[1] // 2, None]
        np.testing.assert_allclose(position_norms(torch.tensor(values)), norms, rtol=1e-4)
        block = study.blocks[name]
        assert block.largest_norm == pytest.approx(norms.max(), rel=1e-4)
        for share, norm in zip(NORM_SHARES, block.norms.tolist(), strict=True):
            above = (norms > norm * (1 + 1e-5)).mean(axis=1)
            assert above.max() <= share + 1 / norms.shape[1]
