"""Checks that the one wheel in a folder carries what a user without a clone needs.

That is code, configs, scripts for Slurm, the licence and the command.
"""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent


def missing(wheel: Path) -> list[str]:
    """What the wheel should hold and does not.

    Args:
        wheel: the wheel's file.

    Returns:
        The names of the missing files, as they would stand in the wheel.
    """
    with ZipFile(wheel) as archive:
        held = set(archive.namelist())
    sources = ROOT / "src"
    wanted = {path.relative_to(sources).as_posix() for path in sources.rglob("*.py")}
    wanted |= {f"mapex_lightning/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    wanted |= {f"mapex_lightning/slurm/{path.name}" for path in (ROOT / "slurm").glob("*.sbatch")}
    info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    wanted |= {f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"}
    return sorted(wanted - held)


if __name__ == "__main__":
    wheels = sorted(Path(sys.argv[1]).glob("*.whl"))
    if len(wheels) != 1:
        sys.exit(f"Wanted one wheel in {sys.argv[1]}; found {len(wheels)}. `make build` makes it.")
    lacking = missing(wheels[0])
    if lacking:
        sys.exit(f"{wheels[0].name} lacks {', '.join(lacking)}.")
    print(f"{wheels[0].name} carries the code, the configs, the scripts for Slurm and the licence.")
