"""What a conversion must not lose, where the files could hold it or the user must be told."""

from pathlib import Path

import pytest
import torch

from monosem.core.errors import ArtifactError, ArtifactMissingError
from monosem.dictionaries.formats.conversion import convert
from monosem.dictionaries.formats.loading import load
from monosem.dictionaries.saving import Origin
from monosem.dictionaries.topk import TopK, TopKConfig
from monosem.dictionaries.wiring import Wiring


@pytest.fixture
def transcoder(tmp_path: Path) -> Path:
    """A transcoder that records no site."""
    made = TopK(TopKConfig(d_in=6, n_latents=12, k=3, wiring=Wiring(kind="transcoder")))
    folded = made.folded(1.0)
    folded.origin = Origin(source="another library's")  # which says nothing of the model
    folded.save(tmp_path / "ours", site="")
    return tmp_path / "ours"


@pytest.mark.parametrize("to", ["dictionary_learning", "sparsify"])
def test_a_transcoder_without_a_site_stays_one_and_its_doubt_is_said(
    to: str, transcoder: Path, tmp_path: Path
) -> None:
    done = convert(transcoder, tmp_path / "theirs", to=to)
    assert "whether the model's weights were processed is not recorded" in done.remarks[-1]
    again, x = load(tmp_path / "theirs"), torch.randn(5, 6)
    assert again.wiring.kind == "transcoder"
    torch.testing.assert_close(again(x), load(transcoder)(x))


def test_a_place_that_cannot_be_is_refused_before_anything_is_read(
    transcoder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ArtifactError, match="no folder can be made"):
        convert(transcoder, tmp_path / "file/inside", to="sparsify")


def test_a_folder_without_its_files_is_no_gemma_scope(transcoder: Path) -> None:
    with pytest.raises(ArtifactMissingError, match=r"There is no `params.npz`"):
        load(transcoder, format="gemma_scope")
