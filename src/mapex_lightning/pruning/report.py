"""What pruning kept, why, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mapex_lightning.pruning.choice import Kept, Policy
from mapex_lightning.pruning.surgery import Merges


@dataclass(frozen=True)
class Report:
    """What pruning kept and what it cost.

    Args:
        sensors: all modalities of the model before.
        keep: the kept modalities.
        policy: how experts were chosen.
        experts: per mixture block, the kept experts by their old numbers.
        before: experts per mixture block before.
        merges: per mixture block, the kept expert into which each other one was merged.
        shares: per modality of the model before and mixture block, the share of its mass that each expert carries;
            the last is that of experts that had been cut away earlier. Zeros where the census has not seen it.
        retained: per kept modality and mixture block, the share of its mass that stays.
        parameters: of the encoder, before and after.
        bytes: of the encoder's weights, before and after.
        exact: whether the pruned model's output is that of the full one for every input: the model was sealed, and
            every expert that a kept sensor may use has stayed.
    """

    sensors: tuple[str, ...]
    keep: tuple[str, ...]
    policy: Policy
    experts: Kept
    before: Mapping[int, int]
    merges: Merges
    shares: Mapping[str, Mapping[int, tuple[float, ...]]]
    retained: Mapping[str, Mapping[int, float]]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    exact: bool

    def plain(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "sensors": list(self.sensors),
            "keep": list(self.keep),
            "policy": asdict(self.policy),
            "experts_kept": {str(block): list(kept) for block, kept in self.experts.items()},
            "experts_before": {str(block): count for block, count in self.before.items()},
            "merged_into": {str(b): {str(gone): kept for gone, kept in m.items()} for b, m in self.merges.items()},
            "share_of_mass": {
                name: {str(block): list(shares) for block, shares in blocks.items()}
                for name, blocks in self.shares.items()
            },
            "retained_mass": {
                name: {
                    "mean": sum(blocks.values()) / max(1, len(blocks)),
                    "minimum": min(blocks.values(), default=1.0),
                    "blocks": {str(block): value for block, value in blocks.items()},
                }
                for name, blocks in self.retained.items()
            },
            "parameters": {"before": self.parameters[0], "after": self.parameters[1]},
            "bytes": {"before": self.bytes[0], "after": self.bytes[1]},
            "exact": self.exact,
        }

    def table(self) -> str:
        """The same for people."""
        how = self.policy.words() or "sealed sets"
        outcome = "output unchanged for every input" if self.exact else "output may change"
        lines = [f"kept {', '.join(self.keep)} ({how}); {outcome}"]
        for block, kept in self.experts.items():
            lines.append(f"  block {block:2d}: experts {', '.join(map(str, kept))} of {self.before[block]}")
        for name, blocks in self.retained.items():
            mean = sum(blocks.values()) / max(1, len(blocks))
            least = min(blocks.values(), default=1.0)
            when = " (counted before sealing, nothing is lost)" if self.exact and least < 1 - 1e-9 else ""
            lines.append(f"  {name}: retained mass {mean:.4f} mean, {least:.4f} minimum{when}")
        for what, (before, after) in (("parameters", self.parameters), ("bytes", self.bytes)):
            lines.append(f"  {what}: {before:,} -> {after:,} ({after / before - 1:+.1%})")
        return "\n".join(lines)
