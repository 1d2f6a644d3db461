"""A process for one job: `python -m lpl.study.worker JOB.json`, as the scheduler starts it."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from .running import carry_out, job_from_json

ERROR_SUFFIX = ".error"  # beside the job's file: why it failed, for people


def main(path: Path) -> None:
    """Does the job; on failure its reason lies beside the job's file."""
    error_file = path.with_suffix(ERROR_SUFFIX)
    error_file.unlink(missing_ok=True)
    try:
        carry_out(job_from_json(path.read_text(encoding="utf-8")))
    except Exception as error:
        error_file.write_text(reason(error), encoding="utf-8")
        traceback.print_exc()
        sys.exit(1)


def reason(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    kind = "" if type(error).__module__.startswith("lpl") and text else f"{type(error).__name__}: "
    return f"{kind}{text}" if text else type(error).__name__


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main(Path(sys.argv[1]))
