"""What a measurement depends on besides the code: hardware, versions, threads."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and the versions, as plain values."""
    about: dict[str, Any] = {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "diffusers")},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        about["cuda"] = torch.version.cuda
        about["tf32 in convolutions"] = torch.backends.cudnn.allow_tf32
    return about


def hardware_line(about: dict[str, Any]) -> str:
    """The environment in one line."""
    device = f"{about['gpu']}, CUDA {about['cuda']}; " if "gpu" in about else ""
    processor = f"{about['cpu']}, {about['threads']} threads"
    return f"{device}{processor}; Python {about['python']}, torch {about['torch']}, diffusers {about['diffusers']}"


def cpu_name() -> str:
    """The processor's name, with the extensions that decide how fast bfloat16 is."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    values = {name.strip(): value.strip() for name, value in fields.items()}
    flags = values.get("flags", "").split()
    known = {"avx512f": "AVX-512", "avx512_bf16": "AVX-512 bfloat16", "amx_bf16": "AMX bfloat16"}
    extensions = [label for flag, label in known.items() if flag in flags]
    name = values.get("model name", platform.machine())
    return f"{name} ({', '.join(extensions)})" if extensions else name


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
