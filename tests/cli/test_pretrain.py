import pytest

from monosem.cli.pretrain import parsed
from monosem.core.errors import UnknownNameError
from monosem.models.small import SmallModelConfig


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ([], SmallModelConfig()),
        (["2L"], SmallModelConfig(n_layers=2)),
        (["2L", "--d-model", "64"], SmallModelConfig(n_layers=2, d_model=64)),
        (["2L", "--n-layers", "1"], SmallModelConfig(n_layers=1)),
        (["--d-mlp", "256", "--n-tokens", "5"], SmallModelConfig(d_mlp=256)),
    ],
)
def test_a_shape_is_the_preset_with_what_is_said_on_top(arguments, shape):
    assert parsed(arguments).run.model == shape


def test_an_unknown_preset_is_named():
    with pytest.raises(UnknownNameError, match="Did you mean"):
        parsed(["tinny"])
