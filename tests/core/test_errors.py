"""The error tree: builtin parents, did-you-mean, messages as written."""

import doctest

import pytest

from monosem.core import errors
from monosem.core.errors import MonosemError, UnknownNameError, suggestion, unknown_name


def subclasses(kind: type) -> set[type]:
    direct = set(kind.__subclasses__())
    return direct | {further for child in direct for further in subclasses(child)}


def test_every_error_is_also_a_builtin_error_that_callers_may_already_catch() -> None:
    mine = [kind for kind in subclasses(MonosemError) if kind.__module__ == errors.__name__]
    assert len(mine) >= 13
    for kind in mine:
        builtin = [base for base in kind.__mro__ if base.__module__ == "builtins"]
        assert builtin[0] is not Exception, kind


def test_the_docstring_draws_the_whole_tree() -> None:
    for kind in subclasses(MonosemError):
        if kind.__module__ == errors.__name__:
            assert kind.__name__ in (errors.__doc__ or "")


def test_an_unknown_name_shows_its_message_and_not_its_repr() -> None:
    error = unknown_name("site", "blocks.0.mlp.hook_pots", ["blocks.0.mlp.hook_post"])
    assert str(error).startswith("Unknown site `blocks.0.mlp.hook_pots`.")
    assert "Did you mean `blocks.0.mlp.hook_post`?" in str(error)
    assert isinstance(error, KeyError)
    assert str(UnknownNameError()) == ""


def test_a_long_list_of_known_names_is_cut() -> None:
    message = str(unknown_name("latent", "x", [f"name{i:03}" for i in range(100)]))
    assert message.endswith("name039, ….")


def test_suggestion_says_nothing_where_nothing_is_near() -> None:
    assert suggestion("qqqq", ["relu"]) == ""


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(errors).failed == 0
    assert doctest.testmod(errors).attempted > 0


def test_errors_can_be_caught_as_what_they_are_in_the_standard_library() -> None:
    with pytest.raises(FileNotFoundError):
        raise errors.ArtifactMissingError("no artifact")
    with pytest.raises(OSError, match="no artifact"):
        raise errors.ArtifactMissingError("no artifact")
