"""The trackers there are: wandb, trackio and tensorboard, each an optional dependency (extra `track`).

They are imported when a run starts, and asked for before: `trackers` refuses what is not installed.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from monosem.core.errors import MissingExtraError, unknown_name
from monosem.runtime.tracking import TrackedRun, Tracker

TrackerName = Literal["wandb", "trackio", "tensorboard"]
PROJECT = "monosem"
PATIENCE = 30.0
"""Seconds that a server may take to answer when a run begins, and again when it ends."""


class Wandb:
    """Weights & Biases; the run's id there is ours, so that a resumed run is the same one."""

    name = "wandb"

    def __init__(self, project: str) -> None:
        self._project = project

    def start(self, run: TrackedRun) -> None:
        """Begin or resume the run; steps its server has already are not sent again."""
        import wandb  # pyright: ignore[reportMissingImports]  # noqa: PLC0415  (extra `track`)

        self._run: Any = wandb.init(
            project=self._project,
            id=run.id,
            name=run.name,
            config=run.config,
            resume="allow",
            settings=wandb.Settings(init_timeout=PATIENCE, finish_timeout=PATIENCE, console="off"),
        )
        self._next_step: int = self._run.step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send one line."""
        if step >= self._next_step:
            self._run.log(dict(values), step=step)

    def finish(self, summary: Mapping[str, float]) -> None:
        """Send the summary and wait until all is sent."""
        self._run.summary.update(dict(summary))
        self._run.finish()


class Trackio:
    """Trackio, on this machine or in a space; it knows a run by its name, which holds our id."""

    name = "trackio"

    def __init__(self, project: str) -> None:
        self._project = project

    def start(self, run: TrackedRun) -> None:
        """Begin or resume the run."""
        import trackio  # pyright: ignore[reportMissingImports]  # noqa: PLC0415  (extra `track`)

        self._trackio: Any = trackio
        self._run: Any = trackio.init(
            project=self._project,
            name=f"{run.name}-{run.id}",
            config=run.config,
            resume="allow",
            embed=False,
        )
        self._last_step = run.last_step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send one line."""
        self._run.log(dict(values), step=step)
        self._last_step = step

    def finish(self, summary: Mapping[str, float]) -> None:
        """Send the summary, as one more entry of the last step, and wait until all is sent."""
        if summary:
            self._run.log({f"summary/{k}": v for k, v in summary.items()}, step=self._last_step)
        self._trackio.finish()  # not the run's own, after which trackio ends it again at exit


class TensorBoard:
    """Event files in `OUT.tensorboard/ID`; `tensorboard --logdir` finds them from any folder above."""

    name = "tensorboard"

    def start(self, run: TrackedRun) -> None:
        """Begin a file of events, which takes the place of those after the last step sent."""
        from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415  (extra `track`)

        out = run.out.resolve()
        folder = out.with_name(f"{out.name}.tensorboard") / run.id
        purge = run.last_step + 1 if run.last_step else None
        self._writer = SummaryWriter(str(folder), purge_step=purge)
        if not run.last_step:
            indented = "".join(f"    {x}\n" for x in json.dumps(run.config, indent=2).splitlines())
            self._writer.add_text("config", indented)
        self._last_step = run.last_step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line, down to the file: a kill loses none."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
        self._last_step = step

    def finish(self, summary: Mapping[str, float]) -> None:
        """Write the summary as values of the last step, and close the file."""
        for name, value in summary.items():
            self._writer.add_scalar(f"summary/{name}", value, self._last_step)
        self._writer.close()


_KINDS: dict[str, Callable[[str], Tracker]] = {
    "wandb": Wandb,
    "trackio": Trackio,
    "tensorboard": lambda _: TensorBoard(),
}


def trackers(names: Sequence[str], project: str = PROJECT) -> list[Tracker]:
    """Return the trackers of these names, each once; `MissingExtraError` if one is not installed."""
    for name in names:
        if name not in _KINDS:
            raise unknown_name("tracker", name, _KINDS)
        found = importlib.util.find_spec(name)
        if (
            found is None or found.origin is None
        ):  # a folder `wandb`, which wandb writes where it runs
            raise MissingExtraError(
                f"`{name}` is not installed, so that `--track {name}` cannot send anything. Install it "
                f"with `pip install {name}`, or all trackers with `pip install 'monosem[track]'`."
            )
    return [_KINDS[name](project) for name in dict.fromkeys(names)]
