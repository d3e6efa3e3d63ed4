"""A log goes on where it stands, and can be cut to where it was."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mapex_lightning.runs import METRICS
from mapex_lightning.train.log import BUFFERED, ROUTING, Metrics, cut, lengths


def lines(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def logged(folder: Path, *steps: int, name: str = "loss") -> None:
    metrics = Metrics(folder / METRICS)
    for step in steps:
        metrics.log_metrics({name: step / 10}, step)
    metrics.save()


def test_a_table_goes_on_where_another_process_has_stopped(tmp_path: Path) -> None:
    logged(tmp_path, 0, 1)
    logged(tmp_path, 2)
    assert lines(tmp_path / METRICS) == [{"loss": str(step / 10), "step": str(step)} for step in range(3)]


def test_a_new_name_makes_the_header_longer_and_loses_no_line(tmp_path: Path) -> None:
    logged(tmp_path, 0)
    logged(tmp_path, 1, name="accuracy")
    assert lines(tmp_path / METRICS) == [
        {"accuracy": "", "loss": "0.0", "step": "0"},
        {"accuracy": "0.1", "loss": "", "step": "1"},
    ]


def test_few_lines_wait_in_memory(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / METRICS)
    for step in range(BUFFERED + 1):
        metrics.log_metrics({"loss": 0.1}, step)
    assert len(lines(tmp_path / METRICS)) == BUFFERED
    metrics.finalize("failed")
    assert len(lines(tmp_path / METRICS)) == BUFFERED + 1


def test_a_log_is_cut_to_where_it_was_though_its_header_is_longer_and_its_end_is_half_a_line(tmp_path: Path) -> None:
    logged(tmp_path, 0, 1)
    (tmp_path / ROUTING).write_text("when,block\nstart,0\n")
    events = tmp_path / "tensorboard/events.out.tfevents.1"
    events.parent.mkdir()
    events.write_bytes(b"abc")
    noted = lengths(tmp_path)
    logged(tmp_path, 2, 3, name="accuracy")
    with (tmp_path / METRICS).open("a") as file:
        file.write("0.4,")
    (tmp_path / ROUTING).write_text("when,block\nstart,0\nepoch001,0\nepo")
    events.write_bytes(b"abcdef")
    events.with_suffix(".2").write_bytes(b"x")
    cut(tmp_path, noted)
    assert [line["loss"] for line in lines(tmp_path / METRICS)] == ["0.0", "0.1"]
    assert (tmp_path / ROUTING).read_text() == "when,block\nstart,0\n"
    assert events.read_bytes() == b"abc"
    assert not events.with_suffix(".2").exists()
    assert lengths(tmp_path) == noted


@pytest.mark.parametrize("steps", [(), (0, 1)])
def test_a_run_that_begins_again_has_no_log(steps: tuple[int, ...], tmp_path: Path) -> None:
    logged(tmp_path, *steps)
    (tmp_path / "config.yaml").touch()
    cut(tmp_path, {})
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["config.yaml"]
