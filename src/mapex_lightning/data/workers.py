"""Work that is shared out over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from torch.utils.data import DataLoader, Dataset

from mapex_lightning.errors import MapexError

Job = TypeVar("Job")
Result = TypeVar("Result")


class _Refused(NamedTuple):
    """What stands for a result where there is none: a DataLoader would hand over its own words for an error."""

    sentence: str


class _Work(Dataset[Any], Generic[Job, Result]):
    """Results as the items of a data set, so that a DataLoader shares them out."""

    def __init__(self, work: Callable[[Job], Result], jobs: Sequence[Job]) -> None:
        self.work, self.jobs = work, jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, number: int) -> Result | _Refused:
        try:
            return self.work(self.jobs[number])
        except MapexError as error:
            return _Refused(str(error))


def in_order(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """The results of jobs, one after the other in their order, as ``map`` gives them.

    Args:
        work: does a job; with processes a function that can be pickled.
        jobs: what is to be done.
        workers: processes; 0 works in this one.

    Raises:
        MapexError: as `work`.
    """
    if not workers or not jobs:
        yield from map(work, jobs)
        return
    count = min(workers, len(jobs))
    for result in DataLoader(_Work(work, jobs), batch_size=None, num_workers=count, collate_fn=_as_it_is):
        if isinstance(result, _Refused):
            raise MapexError(result.sentence)
        yield result


def _as_it_is(result: Any) -> Any:
    """In place of the DataLoader's own way, which makes tensors of arrays and looks into mappings."""
    return result
