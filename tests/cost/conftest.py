"""Where a model is counted: so small a one runs for real, in a fifth of the time of its shapes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from eramv_lab.model import build_model
from eramv_lab.recipe.model_spec import ModelSpec


@pytest.fixture(params=["cpu", pytest.param("meta", marks=pytest.mark.slow)])
def built(request: pytest.FixtureRequest) -> Callable[[ModelSpec], Any]:
    """The model of a spec; the full tier counts its shapes alone as well."""

    def model_of(spec: ModelSpec) -> Any:
        with torch.device(request.param):
            return build_model(spec).eval()

    return model_of
