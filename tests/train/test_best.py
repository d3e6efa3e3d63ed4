"""What was best is remembered where its file is, wherever that lies now."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mapex_lightning.runs import BEST
from mapex_lightning.train.best import Best
from mapex_lightning.train.pretrain import Pretrain


@pytest.mark.parametrize("there", [True, False])
def test_what_was_best_is_remembered_in_a_folder_that_was_moved_if_its_file_is_there(
    there: bool, tmp_path: Path
) -> None:
    module = Pretrain("nano", ["s1"])
    state = Best(tmp_path / "old", module).state_dict() | {"best_model_score": torch.tensor(0.5)}
    state |= {"kth_value": torch.tensor(0.5), "best_model_path": str(tmp_path / "old" / BEST)}
    (tmp_path / "new").mkdir()
    if there:
        (tmp_path / "new" / BEST).touch()
    best = Best(tmp_path / "new", module)
    best.load_state_dict(state)
    path = str(tmp_path / "new" / BEST)
    assert best.best_model_path == (path if there else "")
    assert best.best_k_models == ({path: 0.5} if there else {})
