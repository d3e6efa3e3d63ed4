"""The words of ``mapex prune`` become a policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import load, save
from tests.builders import config_of, encoder_of, observe, seal, tiles_of


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    encoder = encoder_of(config_of((6, 0, 5)))
    observe(encoder, tiles_of(encoder.config, 16))
    save(encoder, tmp_path / "last.ckpt")
    seal(encoder, 1.0)
    save(encoder, tmp_path / "sealed.ckpt")
    return tmp_path / "last.ckpt"


@pytest.mark.parametrize(
    ("words", "policy"),
    [
        ([], {"rule": "coverage", "amount": 0.99, "score": "contribution", "fallback": "next"}),
        (["--coverage", "0.6"], {"rule": "coverage", "amount": 0.6, "score": "contribution", "fallback": "next"}),
        (["--threshold", "0.2"], {"rule": "threshold", "amount": 0.2, "score": "contribution", "fallback": "next"}),
        (["--top", "1", "--score", "gate"], {"rule": "top", "amount": 1.0, "score": "gate", "fallback": "next"}),
        (["--size", "0.9"], {"rule": "size", "amount": 0.9, "score": "contribution", "fallback": "next"}),
        (["--fallback", "merged"], {"rule": "coverage", "amount": 0.99, "score": "contribution", "fallback": "merged"}),
    ],
)
def test_the_words_become_a_policy(words: list[str], policy: dict[str, object], saved: Path) -> None:
    assert main(["prune", "--ckpt", str(saved), "--keep", "s1,s2", *words]) == 0
    assert json.loads(saved.with_name("pruned.json").read_text())["policy"] == policy
    assert load(saved.with_name("pruned.ckpt")).config.names == ("s1", "s2")


def test_a_sealed_model_is_pruned_to_its_sealed_sets_unless_a_rule_is_given(saved: Path) -> None:
    found = {}
    for words in ([], ["--fallback", "merged"], ["--coverage", "0.5"]):
        assert main(["prune", "--ckpt", str(saved.with_name("sealed.ckpt")), "--keep", "s1", *words]) == 0
        found[" ".join(words)] = json.loads(saved.with_name("pruned.json").read_text())
    assert [report["policy"]["rule"] for report in found.values()] == ["sealed", "sealed", "coverage"]
    assert [report["exact"] for report in found.values()] == [True, True, False]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--coverage", "1.5"], "Coverage is a share"),
        (["--coverage", "0.5", "--top", "1"], "not allowed with"),
        (["--top", "many"], "invalid float value"),
        (["--score", "gates"], "invalid choice"),
        (["--size", "10"], "cannot be reached"),
        (["--keep", "s9"], "no modality 's9'"),
    ],
)
def test_words_that_make_no_policy_are_refused_and_nothing_is_written(
    words: list[str], sentence: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", "--ckpt", str(saved), "--keep", "s1,s2", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(saved.parent.glob("pruned*"))
