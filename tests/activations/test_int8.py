"""What int8 may cost at the residual stream of a trained model, with outlier channels and without."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).parents[2] / "benchmarks" / "activations_int8.py"


@pytest.mark.slow
def test_int8_costs_neither_vectors_nor_the_model_nor_dictionaries(data):
    done = subprocess.run(
        [sys.executable, str(COMMAND), "--quick", "--json"],
        env={**os.environ, "MONOSEM_TEST_DATA": str(data), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    streams = json.loads(done.stdout)["streams"]
    assert set(streams) == {"babyllama-361", "babyllama-361 with outliers"}
    for found in streams.values():
        assert 0 < found["fvu"] < 1e-3
        assert abs(found["delta_ce"]) < 1e-3
        assert found["overlap"] >= 0.99
        assert statistics.mean(found["fvu_ratio"]) < 1.02
        alive, again, n_latents = found["dead"]
        assert again - alive <= 0.02 * n_latents
