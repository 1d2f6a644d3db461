import pytest
import torch

from lpl.autoencoders.lean import storage
from lpl.autoencoders.lean.storage import lengthened, shortened


def test_float32_takes_three_bytes_and_rounds_to_16_digits() -> None:
    torch.manual_seed(0)
    values = torch.randn(10_000) * 10.0 ** torch.randint(-30, 30, (10_000,))
    kept = shortened(values)
    assert sum(part.nbytes for part in kept) == 3 * values.numel()
    error = (lengthened(*kept).double() - values.double()).abs() / values.double().abs()
    assert 2.0**-18 < error.max() <= 2.0**-16


def test_rounding_leans_to_neither_side() -> None:
    torch.manual_seed(0)
    values = torch.rand(100_000) + 1
    error = lengthened(*shortened(values)) - values
    assert error.mean().abs() < 0.01 * error.abs().mean()


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), 2.0**-126])
def test_numbers_that_fit_are_kept_exactly(value: float) -> None:
    values = torch.tensor([value])
    restored = lengthened(*shortened(values))
    assert restored.view(torch.int32).item() == values.view(torch.int32).item()


def test_not_a_number_stays_so() -> None:
    assert lengthened(*shortened(torch.tensor([float("nan"), -float("nan")]))).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_are_kept_as_they_are(dtype: torch.dtype) -> None:
    values = torch.randn(5).to(dtype)
    (kept,) = shortened(values)
    assert kept is values
    assert lengthened(kept) is values


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_stays(layout: torch.memory_format) -> None:
    values = torch.randn(2, 3, 4, 5).contiguous(memory_format=layout)
    assert lengthened(*shortened(values)).stride() == values.stride()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last, "strided"])
def test_many_numbers_are_kept_as_few_are(layout: torch.memory_format | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are worked on in pieces, the last of them short."""
    values = torch.randn(3, 5, 7, 11)
    expected = lengthened(*shortened(values))
    monkeypatch.setattr(storage, "PIECE", 50)
    laid_out = values.mT.contiguous().mT if layout == "strided" else values.contiguous(memory_format=layout)
    assert torch.equal(lengthened(*shortened(laid_out)), expected)
