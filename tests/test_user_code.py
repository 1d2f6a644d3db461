"""Classes from files that users name."""

from __future__ import annotations

import pytest

from lpl.user_code import UserCodeError, load_from_file


def test_a_name_is_imported_from_a_file_with_spaces_and_dataclasses(tmp_path, monkeypatch) -> None:
    file = tmp_path / "my losses.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Mine:\n    parts: object\n    scale: float = 2.0\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_from_file("my losses.py:Mine", "key")(None).scale == 2.0


@pytest.mark.parametrize(
    ("content", "spec", "message"),
    [
        (None, "none.py:A", r"key=none\.py:A: no such file; the path is relative to"),
        ("import nonexistent_module\n", "file.py:A", "importing it failed: ModuleNotFoundError"),
        ("Loss = 1\n_hidden = 2\n", "file.py:A", "the file has no A; it has Loss$"),
    ],
)
def test_what_can_not_be_imported_is_explained(content, spec, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "file.py").write_text(content)
    with pytest.raises(UserCodeError, match=message):
        load_from_file(spec, "key")
