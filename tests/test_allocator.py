"""Freed memory that is kept, by the page faults of a process that frees and asks again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from lpl import allocator

ON_GLIBC = platform.libc_ver()[0] == "glibc"

FAULTS = """
import resource
import torch
from lpl.allocator import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
torch.set_num_threads(1)
network = torch.nn.Sequential(*[torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(4)])
images = torch.randn(8, 16, 64, 64)
def step():
    network(images).square().mean().backward()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(keep: bool) -> int:
    run = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], check=True, capture_output=True, text=True)
    return int(run.stdout)


@pytest.mark.skipif(not ON_GLIBC, reason="the allocator is not glibc's")
def test_tensors_take_the_memory_that_others_freed(monkeypatch) -> None:
    for name in allocator.CHOSEN_BY_USER:
        monkeypatch.delenv(name, raising=False)
    assert _faults(keep=True) < _faults(keep=False) / 10


@pytest.mark.parametrize("name", allocator.CHOSEN_BY_USER)
def test_what_the_environment_says_stays(monkeypatch, name) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda library: pytest.fail("the environment was not asked"))
    assert not allocator.keep_freed_memory()


@pytest.mark.parametrize("missing", [AttributeError, OSError, TypeError])
def test_other_allocators_are_left_alone(monkeypatch, missing) -> None:
    def no_library(library):
        raise missing

    for name in allocator.CHOSEN_BY_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", no_library)
    assert not allocator.keep_freed_memory()
