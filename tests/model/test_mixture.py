"""A mixture is a loop over tokens and experts, only faster, and its census remembers who used whom."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

from mapex_lightning.model.config import EncoderConfig, RouterMode
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.experts import Experts
from mapex_lightning.model.mixture import CENSUS, Mixture
from mapex_lightning.model.router import Assignment
from mapex_lightning.tiles import Tiles
from tests.builders import ROUTERS, config_of, encoder_of, observe, steady, tiles_of

SEALED = (((0, 2), (1,), (2, 3)),)


def mixture_of(config: EncoderConfig, dtype: torch.dtype = torch.float64, seed: int = 0) -> Mixture:
    mixture = encoder_of(config, seed, dtype).mixtures[0]
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        mixture.experts.inner_bias.normal_()
        mixture.experts.outer_bias.normal_()
        mixture.router.bias.normal_()
    return mixture


def tokens_of(count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, their sensors, and that all are present."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, 16, generator=generator, dtype=dtype)
    return tokens, torch.randint(0, 3, (count,), generator=generator), torch.ones(count, dtype=torch.bool)


def feed_forward(experts: Experts, expert: int, token: Tensor) -> Tensor:
    inner = experts.inner[expert] @ token + experts.inner_bias[expert]
    return experts.outer[expert] @ F.gelu(inner) + experts.outer_bias[expert]


def by_hand(mixture: Mixture, config: EncoderConfig, token: Tensor, modality: int) -> Tensor:
    """One token after another, one expert after another."""
    router = mixture.router
    row = modality if config.router == "free" else 0
    logits = router.weight[row] @ token + router.bias[row]
    if config.router in ("conditioned", "grouped"):
        logits = logits + router.vector_weight @ router.vectors[modality]
    allowed = config.allowed[0][modality] if config.allowed else range(config.experts[0])
    chosen = sorted(allowed, key=lambda e: -float(logits[e].detach()))[: config.top_k]
    gate = logits[chosen].sigmoid() if config.top_k == 1 else logits[chosen].softmax(0)
    mixed = torch.stack([g * feed_forward(mixture.experts, e, token) for g, e in zip(gate, chosen, strict=True)]).sum(0)
    return mixed if mixture.shared is None else mixed + feed_forward(mixture.shared, 0, token)


@steady
@given(st.sampled_from(ROUTERS), st.integers(1, 3), st.sampled_from([1, 2, 4]), st.booleans(), st.integers(0, 9))
def test_a_mixture_is_a_loop_over_tokens(router: RouterMode, top_k: int, experts: int, sealed: bool, seed: int) -> None:
    allowed = SEALED if sealed and experts == 4 else ()
    config = config_of((experts,), router=router, top_k=top_k, allowed=allowed)
    mixture = mixture_of(config, seed=seed)
    tokens, modality, here = tokens_of(12, seed=seed)
    expected = [by_hand(mixture, config, t, m) for t, m in zip(tokens, modality.tolist(), strict=True)]
    torch.testing.assert_close(mixture(tokens, modality, here)[0], torch.stack(expected), rtol=1e-12, atol=1e-12)


@steady
@given(st.sampled_from(ROUTERS), st.integers(1, 3), st.sampled_from([1, 2, 4]), st.booleans(), st.integers(0, 9))
def test_the_way_that_is_exported_is_the_same_mixture(
    router: RouterMode, top_k: int, experts: int, sealed: bool, seed: int
) -> None:
    allowed = SEALED if sealed and experts == 4 else ()
    mixture = mixture_of(config_of((experts,), router=router, top_k=top_k, allowed=allowed), seed=seed)
    tokens, modality, here = tokens_of(12, seed=seed)
    here[seed % 5 :: 5] = False
    wanted, _ = mixture(tokens, modality, here)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_exporting", lambda: True)
        found, _ = mixture(tokens, modality, here)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("top_k", [1, 2])
def test_the_gradient_is_that_of_the_function(router: RouterMode, top_k: int) -> None:
    mixture = mixture_of(config_of((3,), router=router, top_k=top_k))
    tokens, modality, here = tokens_of(4)
    parameters = tuple(mixture.parameters())

    def mixed(tokens: Tensor, *_: Tensor) -> Tensor:
        out: Tensor = mixture(tokens, modality, here)[0]
        return out

    assert torch.autograd.gradcheck(mixed, (tokens.requires_grad_(), *parameters))


@pytest.mark.parametrize("count", [0, 1])
def test_an_idle_expert_has_a_gradient_of_zero_rather_than_none(count: int) -> None:
    mixture = mixture_of(config_of((4,)))
    out, assignment = mixture(*tokens_of(count))
    out.sum().backward()
    idle = [e for e in range(4) if e not in assignment.expert]
    assert len(idle) == 4 - count
    for parameter in mixture.experts.parameters():
        assert parameter.grad is not None
        assert not parameter.grad[idle].any()


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("top_k", [1, 2])
def test_no_token_at_all_is_a_valid_batch(router: RouterMode, top_k: int) -> None:
    mixture = mixture_of(config_of((3,), router=router, top_k=top_k))
    mixture.observing = True
    out, assignment = mixture(*tokens_of(0))
    assert out.shape == (0, 16)
    assert assignment.expert.shape == (0, top_k)
    assert not mixture.counted.any()


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize(("experts", "top_k"), [(4, 1), (4, 2), (1, 1)])
def test_absent_tokens_are_nobodys_business(router: RouterMode, experts: int, top_k: int) -> None:
    mixture = mixture_of(config_of((experts,), router=router, top_k=top_k))
    tokens, modality, here = tokens_of(30)
    here[::3] = False
    found = []
    for value in (0.0, 1e3):
        given = tokens.masked_fill(~here[:, None], value).requires_grad_()
        mixture.zero_grad()
        mixture.counted.zero_()
        mixture.observing = True
        out, _ = mixture(given, modality, here)
        out.square().sum().backward()
        assert given.grad is not None
        found.append([out, given.grad, mixture.counted.clone(), *(p.grad for p in mixture.parameters())])
        assert not out[~here].any()
        assert not given.grad[~here].any()
    assert found[0][2][0].sum() == top_k * here.sum()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    alone = mixture(tokens[here], modality[here], here[here])[0]
    torch.testing.assert_close(found[0][0][here], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("experts", [1, 4])
def test_the_host_never_waits_for_the_device_in_half_precision(experts: int) -> None:
    config = config_of((experts, 0), top_k=2)

    def encode(dtype: torch.dtype) -> None:
        # A number that the host would have to fetch cannot be had from a fake tensor.
        with FakeTensorMode(), torch.device("cuda"):
            encoder = Encoder(config)
            for parameter in encoder.parameters():
                parameter.data = parameter.data.to(dtype)
            images = {m.name: torch.zeros(2, len(m.bands), 16, 16, dtype=dtype) for m in config.modalities}
            with encoder.observe():
                encoder(Tiles.of(**images))

    encode(torch.bfloat16)
    with pytest.raises(DataDependentOutputException):  # the plain loop asks how many rows each expert has
        encode(torch.float32)


def test_no_token_is_dropped_though_all_want_the_same_expert() -> None:
    mixture = mixture_of(config_of((4,)))
    with torch.no_grad():
        mixture.router.bias[0, 2] = 1000
    out, assignment = mixture(*tokens_of(50))
    assert assignment.expert.eq(2).all()
    assert out.abs().sum(1).gt(0).all()


def test_a_tokens_output_does_not_depend_on_the_others() -> None:
    mixture = mixture_of(config_of((4,), top_k=2))
    tokens, modality, here = tokens_of(9)
    whole = mixture(tokens, modality, here)[0]
    for i in range(9):
        torch.testing.assert_close(
            mixture(tokens[i : i + 1], modality[i : i + 1], here[i : i + 1])[0][0], whole[i], rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_mixture_runs_and_learns_under_bf16_autocast(top_k: int) -> None:
    mixture = mixture_of(config_of((4,), router="grouped", top_k=top_k), torch.float32)
    tokens, modality, here = tokens_of(12, torch.float32)
    mixture.observing = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, assignment = mixture(tokens, modality, here)
    out.float().sum().backward()
    assert assignment.logits.dtype == assignment.weight.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixture.parameters())
    torch.testing.assert_close(out.float(), mixture(tokens, modality, here)[0], rtol=0.1, atol=0.1)


def used(assignment: Assignment) -> set[tuple[int, int]]:
    """Pairs of modality and expert with a gate above zero."""
    pairs = zip(assignment.modality, assignment.expert, assignment.weight, strict=True)
    return {(int(m), int(e)) for m, row, gate in pairs for e, w in zip(row, gate, strict=True) if w > 0}


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_sealed_routing_stays_inside_the_allowed_sets(router: RouterMode, top_k: int) -> None:
    config = config_of((4,), router=router, top_k=top_k, allowed=SEALED)
    _, assignment = mixture_of(config)(*tokens_of(200))
    assert used(assignment) <= {(m, e) for m, row in enumerate(SEALED[0]) for e in row}
    torch.testing.assert_close(assignment.logits.isfinite().sum(1), torch.tensor([2, 1, 2])[assignment.modality])


def test_sealing_anew_replaces_the_old_sets() -> None:
    mixture = mixture_of(config_of((4,), allowed=SEALED))
    mixture.router.restrict(((3,), (3,), (0,)))
    assert used(mixture(*tokens_of(50))[1]) == {(0, 3), (1, 3), (2, 0)}


def test_a_blind_router_does_not_see_the_sensor() -> None:
    router = mixture_of(config_of((4,), router="blind")).router
    tokens, modality, _ = tokens_of(9)
    assert torch.equal(router.logits(tokens, modality), router.logits(tokens, (modality + 1) % 3))


@pytest.mark.parametrize("mode", ["conditioned", "free"])
def test_other_routers_see_the_sensor(mode: RouterMode) -> None:
    router = mixture_of(config_of((4,), router=mode)).router
    tokens, modality, _ = tokens_of(9)
    assert not router.logits(tokens, modality).isclose(router.logits(tokens, (modality + 1) % 3)).all(1).any()


def test_the_gate_depends_on_chosen_experts_alone() -> None:
    mixture = mixture_of(config_of((4,), top_k=2))
    tokens, modality, here = tokens_of(1)
    chosen = mixture.router(tokens, modality, here)
    with torch.no_grad():
        mixture.router.bias[0, [e for e in range(4) if e not in chosen.expert]] -= 5
    assert torch.equal(mixture.router(tokens, modality, here).weight, chosen.weight)


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_census_counts_tokens_gates_contributions_and_probabilities(top_k: int) -> None:
    mixture = mixture_of(config_of((4,), top_k=top_k))
    tokens, modality, here = tokens_of(20)
    mixture.observing = True
    _, assignment = mixture(tokens, modality, here)
    expected = torch.zeros_like(mixture.counted)
    for t in range(20):
        for e, gate in zip(assignment.expert[t].tolist(), assignment.weight[t], strict=True):
            size = feed_forward(mixture.experts, e, tokens[t]).norm()
            expected[:3, modality[t], e] += torch.stack([torch.ones_like(gate), gate, gate * size]).detach()
        expected[3, modality[t], :4] += assignment.logits[t].softmax(-1).detach()
    torch.testing.assert_close(mixture.counted, expected, rtol=1e-6, atol=1e-6)
    assert len(CENSUS) == 4


def test_a_disallowed_expert_that_fills_up_the_choice_is_not_counted() -> None:
    mixture = mixture_of(config_of((4,), top_k=2, allowed=SEALED))
    mixture.observing = True
    mixture(*tokens_of(50))
    seen = {(m, e) for m, e in mixture.counted[0].nonzero().tolist()}
    assert seen == {(m, e) for m, row in enumerate(SEALED[0]) for e in row}


def test_a_census_adds_up_over_batches() -> None:
    config = config_of()
    encoder, first, second = (
        encoder_of(config, dtype=torch.float64),
        *(tiles_of(config, 3, seed, torch.float64) for seed in (1, 2)),
    )
    found = []
    for batches in ([first], [second], [first, second]):
        observe(encoder, *batches)
        found.append({block: mixture.census.clone() for block, mixture in encoder.mixtures.items()})
    for block in config.mixtures:
        torch.testing.assert_close(found[0][block] + found[1][block], found[2][block], rtol=1e-6, atol=1e-6)
        assert found[2][block][0].sum() == 6 * 9


def test_a_full_census_has_nothing_that_is_gone() -> None:
    encoder = encoder_of(config_of())
    observe(encoder, tiles_of(encoder.config))
    assert not any(mixture.census[:, :, -1].any() for mixture in encoder.mixtures.values())


def test_nothing_is_counted_unless_observed() -> None:
    mixture = mixture_of(config_of((4,)))
    mixture(*tokens_of(20))
    assert not mixture.counted.any()
