"""The commands of docs/tutorial.md, as they stand there, one after another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_tutorial_from_first_to_last_command(tmp_path):
    for name in ("scripts", "configs", "convert"):
        (tmp_path / name).symlink_to(ROOT / name)
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs/tutorial.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 6
    said = []
    for block in blocks:
        shell = ["bash", "-e", "-c", f'python() {{ "{sys.executable}" "$@"; }}\n{block}']
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(
            shell, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert ended.returncode == 0, (block, ended.stdout[-2000:], ended.stderr[-2000:])
        assert "Traceback" not in ended.stderr
        said.append(ended.stdout)
    for words in ("48 questions, 48 with 2 options", "in meta, not in the card's prompt: kind, note", "gold: "):
        assert words in said[2]
    assert "resuming after step 2 of 3" in said[3]
    assert "interval" in said[4]
    assert json.loads((tmp_path / "runs/comparison.json").read_text())
    assert (tmp_path / "runs/both.html").stat().st_size > 10_000
    assert (tmp_path / "runs/mine/best/config.json").exists()
