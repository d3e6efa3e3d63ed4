"""``make demo`` does the main job and ends with a table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"


def test_the_demo_runs_to_its_table(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO), "--quick"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.index("Synthetic scenes") :]
    lines = [line.split() for line in table.splitlines() if line.split() and line.split()[-1].startswith("runs/demo-")]
    rows = {words[0]: words[1:] for words in lines if words[0] in ("full", "pruned")}
    full, pruned = (int(rows[name][0].replace(",", "")) for name in ("full", "pruned"))
    assert pruned < full
    assert all(0 <= float(rows[name][1]) <= 1 for name in ("full", "pruned"))
    assert "pictures: runs/demo-quick-pretrain/pictures/" in table
