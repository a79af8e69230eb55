import json

import pytest

from monosem.cli import report
from monosem.dictionaries.baselines import Neurons, NeuronsConfig
from monosem.explorer.pages import Place, Query, feature_page, list_page
from monosem.features.build import FeaturesConfig, build_features
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokensConfig, build_token_store

SITE = "blocks.2.mlp.hook_post"


@pytest.mark.slow
def test_a_real_model_s_neurons_are_reported_and_browsed(data, tmp_path, capsys) -> None:
    name = str(data / "models" / "stories260k")
    text = (data / "corpora" / "tinystories" / "tinystories.txt").read_text(encoding="utf-8")
    for i in range(20):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        (tmp_path / "corpus" / f"{i}.txt").write_text(text[i * 4000 : (i + 1) * 4000])
    model = LanguageModel.load(name)
    config = TokensConfig(corpora=(str(tmp_path / "corpus"),), tokenizer=name, context=64)
    store = build_token_store(config, tmp_path / "tokens")
    width = model.width(SITE)
    neurons = Neurons(NeuronsConfig(d_in=width))
    database = build_features(
        neurons, model, store, tmp_path / "features", FeaturesConfig(n_tokens=10_000), site=SITE
    )
    place = Place(names=["neurons"], name="neurons")
    first = database.list(limit=1)[0]
    page = feature_page(place, database, first.index)
    assert f"Neuron {first.index}" in page
    example = database.examples(first.index, "top")[0]
    assert f"{example.activation:.4g}" in page
    assert f"{width} found" in list_page(place, database, Query())
    out = tmp_path / "report.html"
    assert (
        report.main([str(tmp_path / "features"), "--out", str(out), "--random", "5", "--json"]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert said == {"report": str(out), "bytes": out.stat().st_size}
