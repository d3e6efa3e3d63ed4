"""Windows cover every cell, and processes share them without a gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapex_lightning.data.maps.plan import Plan, raised_cosine
from mapex_lightning.errors import MapexError
from tests.builders import steady


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Grids smaller and larger than a window, with any overlap."""
    unit = draw(st.integers(1, 3))
    stride = unit * draw(st.integers(1, 6))
    side = stride + draw(st.integers(0, 12))
    return Plan.of(draw(st.integers(1, 60)), draw(st.integers(1, 60)), side, stride, unit)


def covered(plan: Plan) -> np.ndarray:
    """How many windows see each cell."""
    counts = np.zeros((plan.height, plan.width), dtype=int)
    for number in range(len(plan)):
        top, left = plan.corner(number)
        counts[top : top + plan.side, left : left + plan.side] += 1
    return counts


@given(plans())
@steady
def test_every_cell_is_covered(plan: Plan) -> None:
    assert covered(plan).min() >= 1


@given(plans(), st.integers(1, 5))
@steady
def test_the_shares_of_all_processes_are_the_grid(plan: Plan, world: int) -> None:
    rows = [row for rank in range(world) for row in plan.share(rank, world).rows]
    assert rows == list(range(plan.height))


@given(plans(), st.integers(1, 5))
@steady
def test_a_share_has_the_windows_that_reach_into_its_rows_and_no_other(plan: Plan, world: int) -> None:
    for rank in range(world):
        share = plan.share(rank, world)
        reach = [
            number
            for number in range(len(plan))
            if plan.corner(number)[0] < share.rows.stop and plan.corner(number)[0] + plan.side > share.rows.start
        ]
        assert list(share.windows) == (reach if share.rows else [])


def test_the_last_window_is_moved_back_to_where_the_grid_ends() -> None:
    assert Plan.of(100, 40, side=40, stride=30).tops == (0, 30, 60)
    assert Plan.of(101, 40, side=40, stride=30, unit=3).tops == (0, 30, 60, 63)
    assert Plan.of(101, 40, side=40, stride=30).lefts == (0,)


def test_windows_that_leave_gaps_are_refused() -> None:
    with pytest.raises(MapexError, match="stride from 3 to 40"):
        Plan.of(100, 100, side=40, stride=41, unit=3)


@given(st.integers(1, 64))
@steady
def test_every_cell_of_a_window_counts_and_the_middle_counts_most(side: int) -> None:
    weight = raised_cosine(side)
    assert weight.min() > 0
    assert weight.max() == weight[side // 2, side // 2]
    np.testing.assert_allclose(weight, weight[::-1, ::-1].T, rtol=1e-4)
