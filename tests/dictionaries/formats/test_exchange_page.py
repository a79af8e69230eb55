"""The page about exchange says what writing and reading do, measured again."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from monosem import cli
from monosem.dictionaries.formats import table
from monosem.dictionaries.formats.specification import Axes, Place, Specification
from monosem.text.tokens import TokensConfig, build_token_store

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_conformance_table_is_what_is_measured() -> None:
    page = (DOCS / "exchange.md").read_text(encoding="utf-8")
    fresh = runpy.run_path(str(DOCS / "exchange.py"))["page"]()

    def pattern(text: str) -> str:
        return re.sub(r"✓ (\d\S*)", "✓ ~", text)  # last digits are the machine's

    assert pattern(page) == pattern(fresh), "run `python docs/exchange.py`"
    assert "✗" not in fresh.partition("<!-- CONFORMANCE -->")[2]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tokens, a model, and a dictionary of SAELens of its site, which is exact."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    g = torch.Generator().manual_seed(0)
    for i in range(30):
        words = torch.randint(12, (60,), generator=g).tolist()
        (tmp_path / "text" / f"{i}.txt").write_text(" ".join("abcdefghijkl"[w] * 3 for w in words))
    config = TokensConfig(
        corpora=(str(tmp_path / "text"),), tokenizer="train:280", context=16, heldout_share=0.3
    )
    store = build_token_store(config, tmp_path / "runs" / "tokens")
    shape = GPT2Config(
        n_layer=1, n_head=1, n_embd=16, n_inner=24, n_positions=16, vocab_size=store.vocab_size,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(shape).save_pretrained(tmp_path / "runs" / "model")
    store.tokenizer.save_pretrained(tmp_path / "runs" / "model")
    both = torch.cat([torch.eye(16), -torch.eye(16)])
    s = Specification(
        activation="relu",
        axes=Axes(subtract_b_dec=False),
        W_enc=both.T,
        W_dec=both,
        b_enc=torch.zeros(32),
        b_dec=torch.zeros(16),
        place=Place(site="blocks.0.hook_resid_post"),
    )
    theirs = tmp_path / "theirs" / "blocks.0.hook_resid_post"
    theirs.mkdir(parents=True)
    write = table.named("saelens").write
    assert write is not None
    write(s, theirs)
    return tmp_path


def test_the_verbs_of_the_page_work_on_another_librarys_folder(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "exchange.md").read_text(encoding="utf-8")
    block = page.partition("<!-- VERBS -->\n```sh\n")[2].partition("```")[0]
    lines = [shlex.split(line)[1:] for line in block.splitlines()]
    few = {
        "evaluate": [
            "--n-loss-tokens",
            "200",
            "--n-mean-tokens",
            "200",
            "--n-density-tokens",
            "300",
        ],
        "features": ["--n-tokens", "300"],
    }
    assert [line[0] for line in lines] == list(few)
    for line in lines:
        assert cli.main([*line, *few[line[0]]]) == 0
    assert "blocks.0.hook_resid_post" in capsys.readouterr().out
    assert (work / "runs" / "theirs" / "config.json").is_file()
