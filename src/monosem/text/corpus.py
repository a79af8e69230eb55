"""Opens a corpus by what it is called: a built-in name, a genre, a path, or a data set of the hub."""

from pathlib import Path

from monosem.core.errors import CorpusError, suggestion
from monosem.text.document import Corpus, Document, Split, split_of
from monosem.text.genres.corpus import LINES, GeneratedCorpus
from monosem.text.genres.corpus import NAME as GENERATED
from monosem.text.hub import PREFIX, HubCorpus, looks_like_hub
from monosem.text.installed import DocstringsCorpus, PythonCorpus
from monosem.text.local import LocalCorpus
from monosem.text.readers import READERS, suffix_of

__all__ = ["Corpus", "Document", "Split", "open_corpus", "split_of"]

_BUILT_IN = {"python": PythonCorpus, "docstrings": DocstringsCorpus}


def open_corpus(spec: str, *, text_field: str = "text") -> Corpus:
    """Return the corpus that `spec` names; `text_field` is the field of its records that holds text.

    A built-in name comes first (write `./python` for a folder of that name), then a path that
    exists, then a data set of the hub. Raises `CorpusError` where nothing can be read.
    """
    if spec in _BUILT_IN:
        return _BUILT_IN[spec]()
    if spec.partition("@")[0].partition(":")[0] in (GENERATED, LINES):
        return GeneratedCorpus.open(spec)
    path = Path(spec).expanduser()
    if not spec.startswith(PREFIX) and path.exists():
        return LocalCorpus.open(path, text_field)
    if looks_like_hub(spec) and suffix_of(path) not in READERS:
        return HubCorpus.open(spec, text_field)
    raise CorpusError(
        f"There is no file or folder `{spec}`, and no built-in corpus of that name."
        f"{suggestion(spec, [*_BUILT_IN, GENERATED])} Name a path that exists, `python`, `docstrings`, "
        "`generated`, or a data set as `hub:org/name`."
    )
