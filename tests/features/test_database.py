"""The door of a feature database: what is reused, refused, found, and what does not depend on what."""

import dataclasses
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteFallback, Fuse, Replace, Sequence, Strip
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from monosem.core.errors import (
    ArtifactCorruptError,
    ArtifactKindError,
    ArtifactMissingError,
    ConfigError,
    ShapeMismatchError,
    StorageFullError,
    UnknownNameError,
)
from monosem.dictionaries.baselines import Neurons
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.features import build as building
from monosem.features import writing
from monosem.features.build import FeaturesConfig, build_features
from monosem.features.database import FeatureDatabase
from monosem.features.directions import largest
from monosem.features.schema import SQLITE_NAME
from monosem.features.vocabulary import text_of
from monosem.metrics.firing import count_firing
from monosem.metrics.stream import Place
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokensConfig, TokenStore, build_token_store

SITE = "blocks.0.mlp.hook_post"
SMALL = FeaturesConfig(n_tokens=300, batch_tokens=128, matmul="fp32")

Build = Callable[..., FeatureDatabase]


@pytest.fixture
def build(dictionary: TopK, model: LanguageModel, store: TokenStore, tmp_path: Path) -> Build:
    def built(**changes: object) -> FeatureDatabase:
        given = {"dictionary": dictionary, "config": SMALL, "out": tmp_path / "database"} | changes
        return build_features(model=model, store=store, **given)  # type: ignore[arg-type]

    return built


@pytest.fixture
def copied(database: FeatureDatabase, tmp_path: Path) -> Path:
    return Path(shutil.copytree(database.path, tmp_path / "copy"))


def content(database: FeatureDatabase) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(database.path / SQLITE_NAME)
    rows = connection.execute("SELECT * FROM features ORDER BY latent").fetchall()
    rows += connection.execute("SELECT * FROM token_index ORDER BY token, latent").fetchall()
    connection.close()
    return rows


def test_the_same_inputs_give_the_same_rows_whatever_the_size_of_the_blocks(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = content(build(out=tmp_path / "a"))
    assert content(build(out=tmp_path / "b")) == reference
    monkeypatch.setattr(building, "ENTRIES_AT_ONCE", 50)
    assert content(build(out=tmp_path / "c")) == reference


def test_its_firings_are_those_that_an_evaluation_of_as_many_tokens_counts(
    database: FeatureDatabase, dictionary: TopK, model: LanguageModel, store: TokenStore
) -> None:
    settings = database.config["features"]
    counted = count_firing(
        {"topk": dictionary},
        Place(model, store, database.site),
        n_tokens=settings["n_tokens"],
        seed=settings["seed"],
        batch=64,
        policy="fp32",
    )["topk"]
    known = database.firing()
    assert known.n_tokens["train"] == counted.n_tokens["train"] > 100
    assert known.n_fired.sum() > 100
    assert torch.equal(known.n_fired, counted.n_fired)


def test_a_finished_database_is_used_again_and_fresh_builds_anew(
    build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    first = build()
    created = (first.path / "config.json").stat().st_mtime_ns
    again = build()
    assert again.hash == first.hash
    assert (again.path / "config.json").stat().st_mtime_ns == created
    assert "already there" in capsys.readouterr().err
    build(fresh=True)
    assert (first.path / "config.json").stat().st_mtime_ns > created


def test_a_finished_database_of_other_settings_or_weights_is_refused(build: Build) -> None:
    build()
    with pytest.raises(ConfigError, match="another features.*--fresh"):
        build(config=dataclasses.replace(SMALL, n_top=3))
    other = TopK(TopKConfig(d_in=24, n_latents=40, k=4, seed=2))
    with pytest.raises(ConfigError, match="another dictionary"):
        build(dictionary=other, site=SITE)


def test_another_kind_of_folder_is_never_replaced(build: Build, store: TokenStore) -> None:
    with pytest.raises(ArtifactKindError, match="token store"):
        build(out=store.path, fresh=True)


def test_a_failed_build_leaves_nothing_behind(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write", full)
    with pytest.raises(StorageFullError, match="disk is full"):
        build()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [SQLITE_NAME, "activations/values.bin", "activations/offsets.bin"])
def test_a_truncated_file_is_noticed(copied: Path, name: str) -> None:
    file = copied / name
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ArtifactCorruptError, match="truncated"):
        FeatureDatabase.open(copied)


def test_the_token_store_is_found_recorded_or_given_and_another_one_refused(
    database: FeatureDatabase, copied: Path, tmp_path: Path
) -> None:
    assert FeatureDatabase.open(copied).store.hash == database.store.hash
    assert FeatureDatabase.open(copied, tokens=database.store.path).n_latents == 40
    text = tmp_path / "other.txt"
    text.write_text("another text " * 50)
    config = TokensConfig(
        corpora=(str(text),), tokenizer="train:300", context=16, heldout_share=0.0
    )
    other = build_token_store(config, tmp_path / "tokens")
    with pytest.raises(ConfigError, match="would show other text"):
        FeatureDatabase.open(copied, tokens=other.path)
    with pytest.raises(ArtifactMissingError):
        FeatureDatabase.open(copied, tokens=tmp_path / "nowhere")


def test_where_the_token_store_lies_is_no_part_of_what_a_database_is(
    build: Build,
    dictionary: TopK,
    model: LanguageModel,
    store: TokenStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    built = build(out=tmp_path / "home/database")
    moved = TokenStore.open(shutil.copytree(store.path, tmp_path / "home/moved"))
    again = build_features(dictionary, model, moved, tmp_path / "home/database", SMALL)
    assert "already there; used again" in capsys.readouterr().err
    other = build_features(dictionary, model, moved, tmp_path / "home/other", SMALL)
    assert again.hash == built.hash == other.hash
    (tmp_path / "home").rename(tmp_path / "new")  # store and database together
    assert FeatureDatabase.open(tmp_path / "new/other").store.path == tmp_path / "new/moved"
    shutil.rmtree(tmp_path / "new/moved")
    with pytest.raises(ArtifactMissingError, match=r"new/moved` nor at .*Pass where it lies"):
        FeatureDatabase.open(tmp_path / "new/other")


def test_a_dictionary_of_another_width_or_site_is_refused_before_work(build: Build) -> None:
    narrow = TopK(TopKConfig(d_in=16, n_latents=40, k=4))
    with pytest.raises(ShapeMismatchError, match="width"):
        build(dictionary=narrow, site=SITE)
    with pytest.raises(ConfigError, match="does not record its site"):
        build(dictionary=narrow)
    with pytest.raises(ConfigError, match="was trained at"):
        build(site="blocks.1.mlp.hook_post")
    with pytest.raises(UnknownNameError):
        build(dictionary=narrow, site="blocks.9.mlp.hook_post")
    with pytest.raises(ConfigError, match="n_top"):
        FeaturesConfig(n_top=-1)


def test_the_neurons_of_a_site_are_features_too(build: Build) -> None:
    found = build(dictionary=Neurons.of_width(24), site=SITE)
    assert found.dictionary_name == "neurons" and found.n_latents == 24
    for feature in found.list(limit=24):
        neuron, correlation = feature.neurons[0]
        assert feature.neighbours == []  # coordinate axes are orthogonal
        assert len(feature.top_logits) == 20
        assert neuron == feature.index or abs(correlation) > 0.5


def test_a_residual_site_has_the_neurons_of_its_block_and_the_embedding_has_none(
    build: Build, tmp_path: Path
) -> None:
    wide = TopK(TopKConfig(d_in=16, n_latents=20, k=3))
    block = build(dictionary=wide, site="blocks.1.hook_resid_post", out=tmp_path / "block")
    assert any(f.neurons for f in block.list())
    embedding = build(dictionary=wide, site="hook_embed", out=tmp_path / "embedding")
    assert not any(f.neurons for f in embedding.list())
    none = dataclasses.replace(SMALL, n_neurons=0)
    without = build(config=none, out=tmp_path / "without")
    assert not any(f.neurons for f in without.list())


def test_a_site_off_the_residual_stream_has_no_logit_effects(build: Build, tmp_path: Path) -> None:
    wide = TopK(TopKConfig(d_in=24, n_latents=20, k=3))
    found = build(dictionary=wide, site="blocks.0.mlp.hook_pre", out=tmp_path / "pre")
    assert all(f.top_logits == [] and f.bottom_logits == [] for f in found.list())


def test_the_list_sorts_filters_and_pages(database: FeatureDatabase) -> None:
    density = [f.density for f in database.list(sort="density", limit=100)]
    assert density == sorted(density, reverse=True) and len(density) == 40
    page = database.list(sort="index", descending=False, offset=10, limit=5)
    assert [f.index for f in page] == [10, 11, 12, 13, 14]
    dead = database.list(status="dead", limit=100)
    assert len(dead) == database.count(status="dead") == database.metrics["n_dead"] > 0
    assert all(f.status == "dead" for f in dead)
    ordered = database.list(sort="skew", limit=100)
    undefined = [bool(np.isnan(f.skew)) for f in ordered]
    assert undefined == sorted(undefined)
    with pytest.raises(UnknownNameError, match="density"):
        database.list(sort="densty")
    with pytest.raises(UnknownNameError, match="no feature 40"):
        database.feature(40)


def test_search_finds_promoted_tokens_and_tokens_under_top_examples(
    database: FeatureDatabase, store: TokenStore
) -> None:
    def expected(query: str) -> set[int]:
        found: set[int] = set()
        for feature in database.list(limit=100):
            shown = [text for _, text, _ in feature.top_logits]
            for example in database.examples(feature.index, "top"):
                context, position = divmod(example.row, store.context)
                token = int(store.tokens([context])[0, position])
                shown.append(text_of(store.tokenizer, token))
            if any(text.strip().casefold().startswith(query) for text in shown):
                found.add(feature.index)
        return found

    for query in ("the", "def", "h", "<script"):
        found = {f.index for f in database.list(search=query, limit=100)}
        assert found == expected(query)
        assert database.count(search=query.upper()) == len(found)
    assert database.list(search="no such token") == []
    assert database.list(search="%") == [] or "%" in str(database.list(search="%"))
    plan = database._connection.execute(
        "EXPLAIN QUERY PLAN SELECT token FROM vocabulary WHERE key >= 'a' AND key < 'b'"
    ).fetchall()
    assert "vocabulary_key" in str([tuple(row) for row in plan])


def test_labels_and_explanations_have_their_tables(database: FeatureDatabase) -> None:
    for table in ("labels", "explanations"):
        (n,) = database._connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
        assert n == 0


def test_a_feature_shows_itself_and_escapes_what_it_shows(database: FeatureDatabase) -> None:
    strongest = database.list(sort="n_fired", limit=1)[0].index
    feature = database[strongest]
    assert len(feature.windows) == 7
    page = feature._repr_html_()
    assert f"Feature {strongest}" in page and "<script>alert" not in page
    assert feature.status in repr(feature)


def test_a_neuron_is_called_a_neuron(build: Build) -> None:
    found = build(dictionary=Neurons.of_width(24), site=SITE)
    assert repr(found[3]).startswith("<Neuron 3: ")
    assert "Neuron 3" in found[3]._repr_html_()


def test_equal_values_are_ranked_by_index() -> None:
    values = torch.tensor([[0.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], [3.0, 1.0, 2.0, 0.0]])
    columns, found = largest(values, 2)
    assert columns.tolist() == [[1, 2], [0, 1], [0, 2]]
    assert found.tolist() == [[1.0, 1.0], [2.0, 2.0], [3.0, 2.0]]
    assert largest(values, 9)[0].tolist() == [[1, 2, 3, 0], [0, 1, 2, 3], [0, 2, 1, 3]]


def test_a_part_of_a_character_is_shown_as_bytes(store: TokenStore) -> None:
    tokenizer = store.tokenizer
    assert text_of(tokenizer, tokenizer.convert_tokens_to_ids("ð")) == "<F0>"
    assert text_of(tokenizer, tokenizer.convert_tokens_to_ids("Ġ")) == " "


def test_a_byte_of_a_sentencepiece_vocabulary_is_shown_as_that_byte() -> None:
    core = Tokenizer(BPE(vocab={"<unk>": 0, "<0x8D>": 1, "\u2581a": 2}, merges=[]))
    core.decoder = Sequence([Replace("\u2581", " "), ByteFallback(), Fuse(), Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    assert [text_of(tokenizer, token) for token in (1, 2)] == ["<8D>", " a"]


def test_activations_too_large_for_float16_are_refused(build: Build, dictionary: TopK) -> None:
    huge = dictionary.folded(1.0)
    with torch.no_grad():
        huge.b_enc[3] = 1e6
    with pytest.raises(ConfigError, match="float16"):
        build(dictionary=huge)
