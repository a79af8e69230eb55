"""Suite: the artifact of dictionaries trained at several sites in one pass of the language model.

OUT/config.json      configuration and sites
OUT/index.json       site -> folders of its dictionaries, with configuration and last metrics
OUT/SITE/            the training run of each site, as `train` leaves it
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from monosem.core import artifact
from monosem.core.config import Json, to_json
from monosem.core.errors import ConfigError, unknown_name
from monosem.models.language_model import LanguageModel
from monosem.rendering.card import card
from monosem.training.part import Part
from monosem.training.run import TrainingRun
from monosem.training.settings import TrainConfig

KIND = "suite"
INDEX = "index.json"


class Suite:
    """A finished suite; `suite["blocks.0.hook_mlp_out"]` is the training run at that site."""

    def __init__(self, found: artifact.Artifact) -> None:
        """Read which sites there are; runs are read when they are asked for."""
        self.path: Path = found.path
        self.hash: str = found.hash
        self.sites: tuple[str, ...] = tuple(found.config["sites"])
        self.summary: Json = found.summary

    @classmethod
    def open(cls, path: Path | str) -> "Suite":
        """Return the suite at `path`, its files checked."""
        return cls(artifact.read(Path(path), KIND))

    def folder(self, site: str) -> Path:
        """Return the folder of the run at `site`, which other verbs take."""
        if site not in self.sites:
            raise unknown_name(f"site of `{self.path}`", site, self.sites)
        return self.path / site

    def __getitem__(self, site: str) -> TrainingRun:
        return TrainingRun.open(self.folder(site))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the sites, in forward order."""
        return iter(self.sites)

    def __len__(self) -> int:
        """Return the number of sites."""
        return len(self.sites)

    def __repr__(self) -> str:
        return f"<Suite {self.path}: {', '.join(self.sites)}>"

    def _repr_html_(self) -> str:
        names = [name.rpartition("/") for name in self.summary["dictionaries"]]
        rows = [(site, ", ".join(n for s, _, n in names if s == site)) for site in self.sites]
        return card("Suite", rows)


def index(parts: list[Part], last: Json) -> Json:
    """Return what `index.json` says: for each site its dictionaries, where they lie and how they measured."""
    return {
        part.site: {
            name: {
                "folder": f"{part.site}/{name}",
                "config": to_json(part.configuration(index)),
                "metrics": last[logged],
            }
            for index, (name, logged) in enumerate(part.names.items())
        }
        for part in parts
    }


def names(config: TrainConfig, sites: Sequence[str], model: LanguageModel) -> list[str]:
    """Return the names of a suite's sites, each once; `ConfigError` where they cannot be one's."""
    if config.target or len(config.sites) > 1 or not sites:
        raise ConfigError(
            "A suite trains the same at each of one or more `sites`, by itself: it has no `target`, and "
            "one `site`. Leave those out."
        )
    return [str(model.check_site(site)) for site in dict.fromkeys(sites)]


def widths(config: TrainConfig, sites: Sequence[str], model: LanguageModel) -> list[int]:
    """Return the width of each site, after a check that the dictionaries of `config` fit all of them."""
    found = [model.width(site) for site in sites]
    for width in found:
        config.check_widths((width,), (width,))
    return found
