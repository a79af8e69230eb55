"""A hint where an input lay, followed from where the artifact lies now."""

from monosem.core.whereabouts import candidates, whereabouts


def test_what_moved_together_is_found_and_what_stayed_too(tmp_path):
    hint = whereabouts(tmp_path / "a/tokens", tmp_path / "a/runs/x")
    together, stayed = candidates(hint, tmp_path / "b/runs/x")
    assert together == tmp_path / "b/tokens"
    assert stayed == tmp_path / "a/tokens"
    assert candidates(hint, tmp_path / "a/runs/x") == [tmp_path / "a/tokens"]
    assert candidates({}, tmp_path) == []
