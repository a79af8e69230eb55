"""Monosem: sparse dictionary learning on language models, from text to features.

The public names, each imported from its room when it is first asked for: `import monosem` loads
nothing, neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING

from monosem.core.homes import MODEL_HOMES

if TYPE_CHECKING:
    from monosem.constructions.attention_only import register as register
    from monosem.core.errors import MonosemError as MonosemError
    from monosem.dictionaries.base import Dictionary as Dictionary
    from monosem.dictionaries.base import DictionaryConfig as DictionaryConfig
    from monosem.dictionaries.batch_topk import BatchTopKConfig as BatchTopKConfig
    from monosem.dictionaries.formats.loading import load as load
    from monosem.dictionaries.gated import GatedConfig as GatedConfig
    from monosem.dictionaries.jumprelu import JumpReLUConfig as JumpReLUConfig
    from monosem.dictionaries.matryoshka import MatryoshkaConfig as MatryoshkaConfig
    from monosem.dictionaries.p_anneal import PAnnealConfig as PAnnealConfig
    from monosem.dictionaries.relu import ReLUConfig as ReLUConfig
    from monosem.dictionaries.relu_april import ReLUAprilConfig as ReLUAprilConfig
    from monosem.dictionaries.tied import TiedConfig as TiedConfig
    from monosem.dictionaries.topk import TopKConfig as TopKConfig
    from monosem.dictionaries.wiring import Wiring as Wiring
    from monosem.explorer.report import write_report as write_report
    from monosem.features.build import FeaturesConfig as FeaturesConfig
    from monosem.features.build import build_features as build_features
    from monosem.features.database import FeatureDatabase as FeatureDatabase
    from monosem.metrics.evaluate import EvaluateConfig as EvaluateConfig
    from monosem.metrics.evaluate import evaluate as evaluate
    from monosem.models.language_model import LanguageModel as LanguageModel
    from monosem.models.language_model import load_model as load_model
    from monosem.models.transformer import MonosemConfig as MonosemConfig
    from monosem.models.transformer import MonosemForCausalLM as MonosemForCausalLM
    from monosem.text.store import TokensConfig as TokensConfig
    from monosem.text.store import TokenStore as TokenStore
    from monosem.text.tokens import build_token_store as build_token_store
    from monosem.training.run import TrainingRun as TrainingRun
    from monosem.training.suite import Suite as Suite
    from monosem.training.trainer import TrainConfig as TrainConfig
    from monosem.training.trainer import train as train
    from monosem.training.trainer import train_suite as train_suite

_HOMES = {
    "BatchTopKConfig": "monosem.dictionaries.batch_topk",
    "Dictionary": "monosem.dictionaries.base",
    "DictionaryConfig": "monosem.dictionaries.base",
    "EvaluateConfig": "monosem.metrics.evaluate",
    "FeatureDatabase": "monosem.features.database",
    "FeaturesConfig": "monosem.features.build",
    "GatedConfig": "monosem.dictionaries.gated",
    "JumpReLUConfig": "monosem.dictionaries.jumprelu",
    "LanguageModel": "monosem.models.language_model",
    "MonosemConfig": "monosem.models.transformer",
    "MatryoshkaConfig": "monosem.dictionaries.matryoshka",
    "MonosemError": "monosem.core.errors",
    "MonosemForCausalLM": "monosem.models.transformer",
    "PAnnealConfig": "monosem.dictionaries.p_anneal",
    "ReLUAprilConfig": "monosem.dictionaries.relu_april",
    "ReLUConfig": "monosem.dictionaries.relu",
    "Suite": "monosem.training.suite",
    "TiedConfig": "monosem.dictionaries.tied",
    "TokenStore": "monosem.text.store",
    "TokensConfig": "monosem.text.store",
    "TopKConfig": "monosem.dictionaries.topk",
    "TrainConfig": "monosem.training.trainer",
    "TrainingRun": "monosem.training.run",
    "Wiring": "monosem.dictionaries.wiring",
    "build_features": "monosem.features.build",
    "build_token_store": "monosem.text.tokens",
    "evaluate": "monosem.metrics.evaluate",
    "load": "monosem.dictionaries.formats.loading",
    "load_model": "monosem.models.language_model",
    "register": "monosem.constructions.attention_only",
    "train": "monosem.training.trainer",
    "train_suite": "monosem.training.trainer",
    "write_report": "monosem.explorer.report",
}
"""Where each public name lives."""
MODEL_HOMES["monosem_attention_only_"] = "monosem.constructions.attention_only"


def __getattr__(name: str) -> object:
    """Import a public name from its room (PEP 562); later look-ups find it here."""
    if name not in _HOMES:
        # Imported here for start-up time: it is needed by this answer only.
        from monosem.core.errors import suggestion

        raise AttributeError(
            f"module `monosem` has no attribute `{name}`.{suggestion(name, _HOMES)}"
        )
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(_HOMES)
