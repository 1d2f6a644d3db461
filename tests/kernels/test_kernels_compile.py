from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import lpl.kernels

HERE = Path(__file__).parent


def test_every_kernel_compiles_for_a_gpu() -> None:
    """What the interpreter runs, a compiler may refuse; it needs no GPU."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *sys.path])
    called = subprocess.run(
        [sys.executable, str(HERE / "compiling.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert called.returncode == 0, called.stderr
    compiled = set(called.stdout.split())
    sources = "\n".join(path.read_text() for path in Path(lpl.kernels.__file__).parent.glob("*.py"))
    written = set(re.findall(r"^@triton\.jit(?:\(.*\))?\ndef (\w+)", sources, flags=re.MULTILINE))
    called_by_kernels = {name for name in written if re.search(rf"(?<!def )(?<!\w){name}(?!\w|\[)", sources)}
    assert compiled == written - called_by_kernels
    assert len(compiled) > 10
