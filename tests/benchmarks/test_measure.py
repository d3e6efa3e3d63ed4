"""What the benchmarks measure is what they say."""

from __future__ import annotations

import time

import torch

from benchmarks.measure import Candidate, alternate, peak, ratio, spread, table

CPU = torch.device("cpu")


def test_the_peak_is_the_worst_moment_and_not_the_sum() -> None:
    def step() -> None:
        first = torch.empty(1_000_000)
        del first
        torch.empty(250_000)

    assert peak(step, CPU) == 4_000_000


def test_memory_that_was_there_before_does_not_count() -> None:
    kept = torch.zeros(1_000_000)
    assert peak(lambda: kept.add_(1), CPU) < 1000


def test_candidates_take_turns_and_the_order_rotates() -> None:
    ran: list[str] = []

    def candidate(name: str) -> Candidate:
        def forward() -> None:
            ran.append(name)
            time.sleep(0.02)

        return Candidate(forward)

    alternate({name: candidate(name) for name in "ab"}, 2, CPU)
    assert ran == ["a", "a", "b", "b", "a", "b", "b", "a"]


def test_forward_is_part_of_the_whole() -> None:
    found = alternate({"a": Candidate(lambda: time.sleep(0.02), lambda _: time.sleep(0.02))}, 2, CPU)["a"]
    assert all(whole > forward > 0.019 for forward, whole in zip(*found, strict=True))


def test_a_ratio_is_taken_round_by_round() -> None:
    assert ratio([1.0, 2.0, 30.0], [2.0, 4.0, 60.0]) == (0.5, 0.5, 0.5)


def test_a_spread_is_median_and_quartiles() -> None:
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, 2.0, 4.0)
    assert str(spread([1.0])) == "1.00 (1.00-1.00)"


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [[1, "x"]]) == "| a | b |\n|---|---|\n| 1 | x |"
