"""A data set of the Hugging Face hub, streamed: `hub:org/name[/configuration][:split]`.

Needs the extra `hub`. Nothing is downloaded but the records that are read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from monosem.core.errors import CorpusError, missing_extra
from monosem.text.document import Document
from monosem.text.readers import UNSTATED, checked_text

PREFIX = "hub:"
_SHAPE = re.compile(
    r"(?P<path>[\w.-]+/[\w.-]+)(/(?P<configuration>[\w.-]+))?(:(?P<split>[\w.-]+))?"
)


def looks_like_hub(spec: str) -> bool:
    """Return whether `spec` is written as a data set of the hub.

    >>> (
    ...     looks_like_hub("roneneldan/TinyStories"),
    ...     looks_like_hub("./texts"),
    ...     looks_like_hub("a/b/c/d"),
    ... )
    (True, False, False)
    """
    return spec.startswith(PREFIX) or (spec[:1] not in "./~" and bool(_SHAPE.fullmatch(spec)))


@dataclass(frozen=True)
class HubCorpus:
    """One split of a data set, read over the network as it is needed."""

    path: str
    configuration: str | None
    split: str
    text_field: str
    records: Any

    @classmethod
    def open(cls, spec: str, text_field: str) -> "HubCorpus":
        """Return the corpus; its first record is read, so that a wrong name or field is found now."""
        shape = _SHAPE.fullmatch(spec.removeprefix(PREFIX))
        if shape is None:
            raise CorpusError(
                f"`{spec}` is no data set's name; write `hub:org/name`, `hub:org/name:split` or "
                "`hub:org/name/configuration:split`."
            )
        path, configuration = shape["path"], shape["configuration"]
        split = shape["split"] or "train"
        corpus = cls(path, configuration, split, text_field, _records(path, configuration, split))
        for _ in corpus.documents():
            return corpus
        raise CorpusError(f"The data set `{path}` has no record in its split `{split}`.")

    @property
    def name(self) -> str:
        """Return the data set's name on the hub."""
        return self.path

    def documents(self) -> Iterator[Document]:
        """Yield one document a record, in the data set's order."""
        licence = getattr(getattr(self.records, "info", None), "license", None) or UNSTATED
        inner = "/".join(filter(None, (self.path, self.configuration, self.split)))
        for number, record in enumerate(self.records):
            place = f"Record {number:,} of `{self.path}`"
            yield Document(
                name=f"{inner}/{number:08d}",
                text=checked_text(cast(dict[str, Any], record), self.text_field, place),
                source=f"https://huggingface.co/datasets/{self.path}",
                licence=licence,
            )

    def fingerprint(self) -> str:
        """Return the data set's name: its content cannot be known without reading it all."""
        return f"{self.path}/{self.configuration or ''}:{self.split}"

    def size(self) -> int:
        """Return 0: not known."""
        return 0


def _records(path: str, configuration: str | None, split: str) -> Any:
    try:
        import datasets  # pyright: ignore[reportMissingImports]  # noqa: PLC0415  (extra `hub`)
    except ImportError as error:
        purpose = f"streams the data set `{path}` (no file or folder has that name)"
        raise missing_extra("datasets", "hub", purpose) from error
    try:
        return datasets.load_dataset(path, configuration, split=split, streaming=True)
    except (
        OSError,
        ValueError,
    ) as error:  # datasets' own "not found" and connection errors are OSError
        raise CorpusError(
            f"The data set `{path}` could not be opened on the hub ({str(error).splitlines()[0]}), and no "
            "file or folder has that name. Check the name, its configuration and split, and the network."
        ) from error
