"""What studies share in running: dictionaries that are trained once, wherever they are needed again."""

from pathlib import Path

from monosem.core.config import content_hash, to_json
from monosem.models.language_model import LanguageModel
from monosem.text.tokens import TokenStore
from monosem.training.run import TrainingRun
from monosem.training.trainer import TrainConfig, train


def trained(
    config: TrainConfig, model: LanguageModel, store: TokenStore, out: Path, *, name: str
) -> TrainingRun:
    """Return the run of `config`, used again where `out` has it.

    Its folder is named by a hash of all that it hangs on: another seed, model or text is another folder.
    """
    key = content_hash([to_json(config), model.hash, store.hash])
    return train(config, model, store, out / f"{name}-{key[:8]}")
