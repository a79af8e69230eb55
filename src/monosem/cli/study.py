"""`monosem study`: a paper's claims, recomputed."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from monosem.core.errors import unknown_name
from monosem.rendering import table

HELP = "recompute the claims of a paper"

STUDIES = ("attention-only",)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Recompute the claims of a paper: what is measured beside what is proved."""

    study: Annotated[str, tyro.conf.Positional]
    """Which: attention-only."""
    scale: str = "small"
    """small, or full: wider and more."""
    json: bool = False
    """Print the claims as JSON."""


def main(arguments: list[str]) -> int:
    """Run the study, print its claims, and return 0 if all hold."""
    given = tyro.cli(Arguments, args=arguments, prog="monosem study", description=HELP)
    if given.study not in STUDIES:
        raise unknown_name("study", given.study, STUDIES)
    # Imported here for start-up time.
    from monosem.studies.attention_only import attention_only

    claims = attention_only(given.scale)
    if given.json:
        print(json.dumps([{**dataclasses.asdict(c), "holds": c.holds} for c in claims], indent=2))
    else:
        rows = [
            [c.claim, c.dtype, f"{c.measured:.3g}", f"{c.bound:.3g}", "yes" if c.holds else "NO"]
            for c in claims
        ]
        print(table.text(["claim", "dtype", "measured", "bound", "holds"], rows))
    return 0 if all(c.holds for c in claims) else 1
