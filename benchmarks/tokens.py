"""Speed of the token store: text in a second of processor time, on one thread.

python benchmarks/tokens.py [TOKENIZER_FOLDER ...]
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from monosem.text.corpus import open_corpus
from monosem.text.tokens import TokensConfig, build_token_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizers", nargs="*", default=["train:4096"])
    given = parser.parse_args()
    began = time.process_time()
    n = sum(len(document.text.encode()) for document in open_corpus("python").documents())
    reading = time.process_time() - began
    print(f"reading `python`: {n / 1e6:.1f} MB, {n / 1e6 / reading:.2f} MB/s")
    for tokenizer in given.tokenizers:
        folder = Path(tempfile.mkdtemp())
        try:
            began = time.process_time()
            config = TokensConfig(tokenizer=tokenizer)
            store = build_token_store(config, folder / "tokens")
            seconds = time.process_time() - began
            size = sum((folder / "tokens" / f).stat().st_size for f in ("tokens.npy", "starts.npy"))
            n_tokens = store.n_tokens("train") + store.n_tokens("heldout")
            print(
                f"{tokenizer}: {n_tokens:,} tokens, {n / 1e6 / seconds:.2f} MB/s in all, "
                f"{n / 1e6 / (seconds - reading):.2f} MB/s without reading, {size / n_tokens:.1f} B/token"
            )
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
