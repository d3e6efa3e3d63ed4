"""The words of ``mapex prune`` become a policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import load, save
from mapex_lightning.model.config import RouterMode
from tests.builders import config_of, encoder_of, observe, seal, tiles_of
from tests.markup import parsed
from tests.workshop import SMALL, TILES, light, pretrain


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
        (["--keep", "s1,", "s2"], "--keep is one word without spaces, such as s1,s2; found 's1,' and then 's2'"),
    ],
)
def test_words_that_make_no_policy_are_refused_and_nothing_is_written(
    words: list[str], sentence: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", "--ckpt", str(saved), "--keep", "s1,s2", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(saved.parent.glob("pruned*"))


@pytest.mark.parametrize(
    "out", ["two.safetensors", "two.json", "two.html", "two", "test.ckpt", "validate-s1.ckpt", "."]
)
def test_nothing_else_is_written_over(out: str, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in saved.parent.iterdir()}
    assert main(["prune", "--ckpt", str(saved), "--keep", "s1", "--out", str(saved.parent / out)]) == 2
    assert "--out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in saved.parent.iterdir()} == before


@pytest.mark.parametrize("router", ["conditioned", "grouped"])
def test_a_model_without_mixtures_is_pruned_exactly(
    router: RouterMode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(encoder_of(config_of((0, 0), router=router)), tmp_path / "dense.ckpt")
    assert main(["prune", "--ckpt", str(tmp_path / "dense.ckpt"), "--keep", "s1"]) == 0
    assert load(tmp_path / "pruned.ckpt").config.names == ("s1",)
    assert "output unchanged for every input" in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--size", "0.9", "--fallback", "merged"]])
def test_without_tiles_it_needs_neither_lightning_nor_timm(more: list[str], saved: Path) -> None:
    light("prune", "--ckpt", str(saved), "--keep", "s1", *more)


def test_a_page_and_the_heat_maps_stand_beside_the_checkpoint(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--ckpt", str(saved), "--keep", "s1,s2", "--out", str(saved.with_name("two.ckpt"))]) == 0
    page = parsed(saved.with_name("two.html").read_text(encoding="utf-8"))
    assert (page.left_open, page.loads) == ([], [])
    report = json.loads(saved.with_name("two.json").read_text())
    assert f"{report['parameters']['after']:,}" in page.words
    assert report["comparison"] is None
    assert "prune --keep s1,s2 --coverage 0.99" in page.words
    with Image.open(saved.with_name("two-experts.png")) as picture:
        assert picture.size[0] > 6 * 60
    out = capsys.readouterr().out
    assert "not measured, give --config TILES" in out
    assert str(saved.with_name("two.html")) in out


def test_on_tiles_full_and_pruned_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    last = pretrain("--data.modalities", "[s1, s2]")
    words = ["--config", "pretrain.yaml", "--data.sets", TILES, *SMALL, "--data.modalities", "[s1, s2]"]
    assert main(["prune", "--ckpt", "last.ckpt", "--keep", "s2", *words]) == 0
    found = json.loads(last.with_name("pruned.json").read_text())
    assert found["exact"]
    assert found["comparison"]["tiles"] <= 6
    assert found["comparison"]["difference"] < 1e-5
    assert found["comparison"]["full"]["median"] > 0
    text = parsed(last.with_name("pruned.html").read_text(encoding="utf-8")).text
    assert f"{found['comparison']['pruned']['median']:.2f} ms" in text
    assert "latency of one tile" in capsys.readouterr().out
