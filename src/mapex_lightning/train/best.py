"""The best checkpoint of a run, and how good it was, which a run that goes on remembers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from mapex_lightning.runs import BEST
from mapex_lightning.train.base import MapexModule


class Best(ModelCheckpoint):
    """Keeps ``best.ckpt``. Lightning's own forgets how good it was where the folder of the run lies elsewhere now.

    Args:
        folder: of the run.
        module: says by which figure the best is chosen.
    """

    def __init__(self, folder: Path, module: MapexModule) -> None:
        name = Path(BEST).stem
        super().__init__(folder, name, monitor=module.monitor, mode=module.mode, enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what was best, if its file is here; in the folder of another run it is not."""
        assert self.dirpath is not None
        here = Path(self.dirpath) / BEST
        score = state_dict["best_model_score"]
        if here.is_file() and score is not None:
            place = {
                "best_model_path": str(here),
                "kth_best_model_path": str(here),
                "best_k_models": {str(here): score},
            }
            super().load_state_dict({**state_dict, **place, "dirpath": self.dirpath})
