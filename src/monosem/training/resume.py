"""What a run is, and whether what lies at its place is the same one, finished or interrupted."""

import sys
from pathlib import Path
from typing import cast

import torch

from monosem.core import artifact
from monosem.core.config import Json
from monosem.core.errors import ArtifactKindError, ResumeError
from monosem.runtime import matmul
from monosem.training.sharing import BY_ITSELF, Sharing


def machine(policy: matmul.MatmulPolicy, device: str, sharing: Sharing = BY_ITSELF) -> Json:
    """Return what bit-equality depends on."""
    threads = torch.get_num_threads()
    return {
        "matmul": policy,
        "device": device,
        "threads": threads,
        "torch": torch.__version__,
        "ranks": sharing.everyone.size,
        "parallel": sharing.kind,
    }


def check_resumable(
    folder: Path,
    state: Json,
    identity: Json,
    policy: str,
    device: str,
    sharing: Sharing = BY_ITSELF,
) -> matmul.MatmulPolicy:
    """Return the arithmetic of the interrupted run in `folder`; `ResumeError` if it cannot go on here.

    On another number of ranks, or where they share out something else, sums are added in another order
    anyway: it goes on, with a word on stderr, whatever else differs.
    """
    where = f"`{folder}` holds an interrupted run"
    if state["identity"].keys() != identity.keys():
        raise ResumeError(f"{where} of another kind. Pass `--fresh` to throw it away.")
    for name, value in identity.items():
        if state["identity"][name] != value:
            raise ResumeError(
                f"{where} with {_difference(name, state['identity'][name], value)}. Go on with its "
                "own settings and inputs, or pass `--fresh` to throw it away."
            )
    recorded = state["machine"]
    own = matmul.check(recorded["matmul"])
    if policy not in ("auto", own):
        raise ResumeError(f"{where} with matmul `{own}`, not `{policy}`. Use the same.")
    here = machine(own, device, sharing)
    if any(recorded[name] != here[name] for name in ("ranks", "parallel")):
        sys.stderr.write(
            f"{where}, of {_ranks(recorded)}. It goes on with {_ranks(here)}: up to rounding, not bit for "
            "bit.\n"
        )
        return own
    for name, value in here.items():
        if recorded[name] != value:
            raise ResumeError(
                f"{where} made with {name} {recorded[name]}; here it is {value}, so it would not go "
                f"on bit for bit. Use the same {name}, or pass `--fresh` to start again."
            )
    return own


def _ranks(made: Json) -> str:
    n = made["ranks"]
    return "1 process" if n == 1 else f"{n} ranks that share out {made['parallel']}"


def check_same(out: Path, kind: str, identity: Json) -> None:
    """Raise `ArtifactKindError` unless the finished artifact at `out` has this identity."""
    found = artifact.read(out, kind).config
    for name, value in identity.items():
        if found[name] != value:
            raise ArtifactKindError(
                f"`{out}` holds a finished run with {_difference(name, found[name], value)}. Choose "
                "another `--out`, or pass `--fresh` to replace it."
            )


def _difference(name: str, there: object, here: object) -> str:
    """Say in words how two values of one part of a run's identity differ."""
    if not isinstance(there, dict) or not isinstance(here, dict):
        return f"another {name} ({there}, not {here})"
    told: list[str] = []
    for field, value in cast(Json, here).items():
        before, now = _settings(field, cast(Json, there).get(field)), _settings(field, value)
        if (
            before.keys() != now.keys()
        ):  # other dictionaries, as a rule: what they are set to is no matter
            told.append(f"another `{field}`")
        else:
            told += [f"`{k}` {before[k]} instead of {now[k]}" for k in now if before[k] != now[k]]
    return ", ".join(told)


def _settings(path: str, value: object) -> dict[str, object]:
    """Return the single settings in `value` by path, such as `dictionaries[0].k`."""
    if isinstance(value, dict):
        inner = [(f"{path}.{k}", v) for k, v in cast(Json, value).items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        inner = [(f"{path}[{i}]", v) for i, v in enumerate(cast(list[object], value))]
    else:
        return {path: value}
    return {k: v for path, each in inner for k, v in _settings(path, each).items()}
