"""An evaluation as an artifact: one folder whose `config.json` holds settings and results.

    {"language_model": {"loss", "unigram", "bigram", "trigram"}, "dictionaries": {name: measures},
     "language_model_intervals": {"loss": [low, high], …}}

The results lie in the summary of the artifact; there are no other files. The language model's parts
are empty where they were not asked for. Measures by name (`survey.py`) are an artifact of the same form, of
kind "survey": {name: {measure: {what: {"value", "low", "high", "null", "null_high", "n", "void"}}}}.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from monosem.core import artifact
from monosem.core.config import Json, content_hash, to_json
from monosem.core.errors import ArtifactKindError
from monosem.metrics.evaluate import EvaluateConfig, evaluate_many
from monosem.metrics.firing import Firing
from monosem.metrics.language import evaluate_language_model
from monosem.metrics.stream import AnyDictionary
from monosem.metrics.subject import SurveyConfig
from monosem.metrics.survey import Other, as_json, survey
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokenStore

KIND = "evaluation"
SURVEY = "survey"


def evaluation(
    dictionaries: Mapping[str, AnyDictionary],
    model: LanguageModel,
    store: TokenStore,
    config: EvaluateConfig,
    *,
    site: str | None = None,
    neurons: bool = True,
    language_model: bool = True,
    firing: Mapping[str, Firing] | None = None,
) -> Json:
    """Return the results for several dictionaries, and for the language model itself."""
    measures = evaluate_many(
        dictionaries, model, store, config, site=site, neurons=neurons, firing=firing
    )
    losses: Json = {}
    if language_model:
        losses = evaluate_language_model(
            model, store, n_tokens=config.n_loss_tokens, seed=config.seed
        )
    ends: Json = losses.pop("intervals", {})
    return {
        "language_model": losses,
        "language_model_intervals": ends,
        "dictionaries": measures,
    }


def write_evaluation(
    dictionaries: Mapping[str, AnyDictionary],
    model: LanguageModel,
    store: TokenStore,
    out: Path | str,
    config: EvaluateConfig | None = None,
    *,
    site: str | None = None,
    neurons: bool = True,
    language_model: bool = True,
    firing: Mapping[str, Firing] | None = None,
    fresh: bool = False,
) -> Json:
    """Return what `evaluation` does, and keep it at `out`.

    `firing` holds counts that another pass has made already (`FeatureDatabase.firing`). A finished
    evaluation of the same settings and inputs is used again unless `fresh`; one of others is not
    replaced without it.
    """
    out, config = Path(out), config or EvaluateConfig()
    artifact.check_target(out, KIND)
    inputs = {"model": model.hash, "tokens": store.hash}
    inputs |= {f"dictionary {name}": weights_hash(d) for name, d in dictionaries.items()}
    record: Json = {
        "evaluate": to_json(config),
        "site": site,
        "neurons": neurons,
        "language_model": language_model,
        "inputs": inputs,
        "counted": {name: _firing_hash(known) for name, known in (firing or {}).items()},
    }
    if not fresh and (out / artifact.CONFIG_NAME).is_file():
        return _same(artifact.read(out, KIND), record)
    results = evaluation(
        dictionaries,
        model,
        store,
        config,
        site=site,
        neurons=neurons,
        language_model=language_model,
        firing=firing,
    )
    with artifact.writing(
        out, kind=KIND, config=record, inputs=inputs, seed=config.seed, summary=results
    ):
        pass
    return results


def write_survey(
    dictionaries: Mapping[str, AnyDictionary],
    model: LanguageModel,
    store: TokenStore,
    out: Path | str,
    config: SurveyConfig,
    *,
    site: str | None = None,
    other: Other | None = None,
    beside: EvaluateConfig | None = None,
    neurons: bool = True,
    fresh: bool = False,
) -> Json:
    """Return what `survey` does, and keep it at `out`, as `write_evaluation` does."""
    out, beside = Path(out), beside or EvaluateConfig()
    artifact.check_target(out, SURVEY)
    inputs = {"model": model.hash, "tokens": store.hash}
    inputs |= {f"dictionary {name}": weights_hash(d) for name, d in dictionaries.items()}
    if other is not None:
        inputs["against"] = f"{other.place.model.hash} {weights_hash(other.dictionary)}"
    record: Json = {
        "survey": to_json(config),
        "beside": to_json(beside),
        "site": site,
        "neurons": neurons,
        "inputs": inputs,
    }
    if not fresh and (out / artifact.CONFIG_NAME).is_file():
        return _same(artifact.read(out, SURVEY), record)
    found = survey(
        dictionaries, model, store, config, site=site, other=other, beside=beside, neurons=neurons
    )
    results = as_json(found)
    with artifact.writing(
        out, kind=SURVEY, config=record, inputs=inputs, seed=config.seed, summary=results
    ):
        pass
    return results


def weights_hash(dictionary: AnyDictionary) -> str:
    """Return a hash of a dictionary's configuration and weights, saved or not."""
    digest = hashlib.sha256(content_hash(dictionary.config).encode())
    for name, weight in sorted(dictionary.state_dict().items()):
        digest.update(name.encode())
        flat = weight.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _firing_hash(firing: Firing) -> str:
    digest = hashlib.sha256(content_hash({**firing.n_tokens, "matmul": firing.matmul}).encode())
    digest.update(firing.n_fired.numpy().tobytes())
    return digest.hexdigest()[:16]


def _same(found: artifact.Artifact, record: Json) -> Json:
    if found.config != record:
        names = ", ".join(f"`{k}`" for k in record if found.config.get(k) != record[k])
        raise ArtifactKindError(
            f"`{found.path}` holds a finished {found.kind} with other {names}. Choose another `--out`, "
            "or pass `--fresh` to replace it."
        )
    return found.summary
