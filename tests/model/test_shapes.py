import pytest
import torch

from mapex_lightning.model.config import EncoderConfig, RouterMode, preset
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.shapes import shapes
from tests.builders import ROUTERS, SENSORS, config_of


def of_layers(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in Encoder(config).state_dict().items()}


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("low_rank", [0, 3])
def test_shapes_are_those_of_the_layers(router: RouterMode, low_rank: int) -> None:
    for sensors in (SENSORS, SENSORS[1:2]):
        config = config_of(router=router, low_rank=low_rank, sensors=sensors)
        assert shapes(config) == of_layers(config)


def test_shapes_are_those_of_the_layers_of_presets_and_of_merged_experts() -> None:
    large = preset("large", SENSORS, router="grouped", collaborative=1)
    merged = EncoderConfig(SENSORS, 16, 2, (2, 0), 32, 8, 80.0, routes=((0, 1, 1, 0), ()))
    for config in (large, preset("nano", SENSORS, every=0), merged):
        assert shapes(config) == of_layers(config)
