from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import allocator


def test_command_times_both_objectives_with_and_without(monkeypatch, tmp_path) -> None:
    taken = iter([4.0, 3.0, 9.0, 8.0, 6.0, 3.0, 9.0, 7.2])  # ℓ2 and LPL, without and with, twice
    asked = []

    class Pool:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def apply(self, function, arguments):
            assert function is allocator.timed_steps
            recipe, warmup, kept = arguments
            asked.append((recipe.objective.perceptual is not None, warmup, kept, recipe.training.steps, recipe.folder))
            return next(taken)

    class Context:
        def Pool(self, processes):
            assert processes == 1
            return Pool()

    monkeypatch.setattr(allocator.multiprocessing, "get_context", lambda kind: Context())
    monkeypatch.setenv("LPL_CACHE", str(tmp_path))
    app = typer.Typer()
    app.command()(allocator.main)
    page = tmp_path / "page.md"
    options = ["--steps", "5", "--warmup", "2", "--rounds", "2", "--markdown", str(page)]
    called = CliRunner().invoke(app, ["recipes/demo.yaml", *options])
    assert called.exit_code == 0, called.output
    assert [one[:4] for one in asked] == 2 * [(lpl, 2, kept, 7) for lpl in (False, True) for kept in (False, True)]
    assert len({one[4] for one in asked}) == 8  # no process resumes another's run
    assert "| training, ℓ2 | 5.00 (4.00–6.00) | 3.00 | 0.62 (0.50–0.75) |" in page.read_text()
    assert "| training, LPL | 9.00 | 7.60 (7.20–8.00) | 0.84 (0.80–0.89) |" in page.read_text()


def test_process_that_cannot_keep_memory_says_so(monkeypatch) -> None:
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: False)
    with pytest.raises(RuntimeError, match="freed memory can't be kept"):
        allocator.timed_steps(None, 1, True)
