from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lpl.data.writing import CacheWriter, GrowingArray


@pytest.mark.parametrize("counts", [[], [1], [9, 1], [4000, 6000, 2345]])
def test_growing_array_is_an_ordinary_npy_file_of_its_final_length(tmp_path: Path, counts: list[int]):
    parts = [np.random.default_rng(n).normal(size=(n, 2, 3)).astype(np.float16) for n in counts]
    growing = GrowingArray(tmp_path / "a.npy", (2, 3))
    for part in parts:
        growing.append(part)
    growing.close()
    expected = np.concatenate([np.zeros((0, 2, 3), np.float16), *parts])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    np.save(tmp_path / "b.npy", expected)
    assert (tmp_path / "a.npy").stat().st_size == (tmp_path / "b.npy").stat().st_size


def test_growing_array_takes_arrays_of_any_layout(tmp_path: Path):
    values = np.arange(24, dtype=np.float16).reshape(4, 3, 2).transpose(0, 2, 1)
    growing = GrowingArray(tmp_path / "a.npy", (2, 3))
    growing.append(values)
    growing.close()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), values)


def test_statistics_of_batches_are_those_of_all_entries(tmp_path: Path):
    random = np.random.default_rng(0)
    mean = (random.normal(size=(50, 2, 3, 4, 4)) * [[[[1.0]], [[2.0]], [[0.5]]]] + 7).astype(np.float16)
    writer = CacheWriter(tmp_path, (2, 3, 4, 4))
    for start in range(0, 50, 16):
        part = mean[start : start + 16]
        writer.append(part, np.zeros_like(part), list(range(start, start + len(part))))
    np.testing.assert_array_equal(writer.close(), np.arange(50))
    wide = mean.astype(np.float64).swapaxes(0, 2).reshape(3, -1)
    np.testing.assert_allclose(writer.channel_mean, wide.mean(1), rtol=1e-12)
    np.testing.assert_allclose(writer.channel_std, wide.std(1), rtol=1e-9)
    assert not (tmp_path / "std.npy").exists()


def test_one_uncertain_latent_keeps_all_standard_deviations(tmp_path: Path):
    writer = CacheWriter(tmp_path, (1, 1, 2, 2))
    zeros = np.zeros((2, 1, 1, 2, 2), np.float16)
    one = zeros.copy()
    one[1, 0, 0, 1, 1] = 0.5
    writer.append(zeros, zeros, [0, 0])
    writer.append(zeros, one, [1, 1])
    writer.close()
    np.testing.assert_array_equal(np.load(tmp_path / "std.npy"), np.concatenate([zeros, one]))
    np.testing.assert_allclose(writer.channel_std, [np.sqrt(0.25 / 16)])
