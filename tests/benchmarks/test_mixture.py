"""The benchmark of the mixture compares ways that compute the same, and prints its table."""

from __future__ import annotations

import pytest
import torch

from benchmarks.mixture import OURS, ROUTINGS, Bench, Shape, main, sensors_of
from benchmarks.peers import PEERS

CPU = torch.device("cpu")


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("top_k", [1, 2])
def test_every_peer_has_our_outputs_and_our_gradients(peer: str, top_k: int) -> None:
    bench = Bench(Shape(96, 16, 4, top_k), [peer], ROUTINGS, CPU)
    if bench.absent:
        pytest.skip(bench.absent[peer])
    for routing in ROUTINGS:
        out, gradients = bench.gradients((peer, routing))
        wanted, to_ours = bench.gradients((OURS, routing))
        torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradients, to_ours, rtol=1e-4, atol=1e-4)
        assert all(bool(gradient.any()) for gradient in to_ours)


@pytest.mark.parametrize("peer", sorted(set(PEERS) - {"transformers grouped"}))
def test_no_peer_agrees_with_other_weights(peer: str) -> None:
    bench = Bench(Shape(96, 16, 4, 1), [peer], ["balanced"], CPU)
    if bench.absent:
        pytest.skip(bench.absent[peer])
    before, _ = bench.gradients((peer, "balanced"))
    with torch.no_grad():
        bench.ways[peer, "balanced"].inputs[-1].add_(1.0)
    after, _ = bench.gradients((peer, "balanced"))
    assert not torch.allclose(before, after)


@pytest.mark.parametrize(("routing", "largest"), [("balanced", 0.25), ("skewed", 0.625)])
def test_the_routing_is_as_balanced_as_it_says(routing: str, largest: float) -> None:
    shape = Shape(96, 16, 4, 1)
    bench = Bench(shape, [], [routing], CPU)
    sensors = sensors_of(shape, routing, CPU)
    assignment = bench.mixture.router(bench.tokens, sensors, torch.ones(96, dtype=torch.bool))
    assert int(assignment.expert.flatten().bincount().max()) == largest * 96


def test_a_dense_layer_has_the_active_weights_of_the_mixture() -> None:
    bench = Bench(Shape(96, 16, 4, 2), [], ["balanced"], CPU)
    one = sum(parameter[0].numel() for parameter in bench.mixture.experts.parameters() if parameter.ndim == 3)
    assert sum(parameter.numel() for parameter in bench.dense.parameters() if parameter.ndim == 2) == 2 * one


def test_the_command_prints_a_row_for_every_way(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--tokens", "64", "--width", "16", "--experts", "4", "--top-k", "2", "--rounds", "1", "--peers", "padded"])
    printed = capsys.readouterr().out
    rows = [line.split(" | ")[:2] for line in printed.splitlines() if line.startswith("| ")][1:]
    ways = [(row[0].removeprefix("| "), row[1]) for row in rows]
    balanced, skewed = ROUTINGS
    assert ways == [
        ("dense", ""),
        ("ours", balanced),
        ("padded", balanced),
        ("ours", skewed),
        ("padded", skewed),
        ("matrix products", ""),
    ]
    assert "skewed against balanced" in printed


def test_the_command_runs_in_bfloat16(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--tokens", "64", "--width", "16", "--experts", "4", "--dtype", "bfloat16", "--rounds", "1", "--no-memory"])
    assert "64 tokens, D16, E4, k1, bfloat16" in capsys.readouterr().out
