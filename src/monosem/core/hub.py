"""The Hugging Face hub: folders of it by name, and whether it can be asked, known in seconds."""

import functools
import re
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    DryRunError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)

from monosem.core.errors import ArtifactMissingError, ConfigError

PATIENCE = 5.0
"""Seconds that the hub may take to answer."""
AGAIN = 60.0
"""Seconds after which it is asked again."""
MOST_BYTES = 20 * 2**30
"""What a name may bring; repositories of whole suites, and folders of a layer, hold far more."""
CONFIGURATIONS = ("config.json", "config.yaml", "cfg.json", "hyperparams.json", "lm_config.json")
"""What may lie beside a file and say what it is."""
TENSORS = (".safetensors", ".npz", ".pt", ".pth")
_NAME = re.compile(
    r"(?:hf://)?([\w.-]+/[\w.-]+)((?:/[\w.:=+-]+)*)/?(?:(?:@|\?revision=)([\w./-]+))?"
)


@dataclass(frozen=True, kw_only=True)
class Named:
    """A repository on the hub, or a folder or file in it."""

    repository: str
    """Organisation and name."""
    inner: str = ""
    """Path in the repository, without a slash before or after it; empty for all of it."""
    revision: str | None = None
    """Branch, tag or commit; None is the newest."""


def named(place: str) -> Named | None:
    """What `place` would be on the hub: `organisation/name`, then a path, then `@revision`; or None.

    `?revision=…` is another way to say the last.

    >>> named("google/gemma-scope-2b-pt-res/layer_20/width_16k@main")
    Named(repository='google/gemma-scope-2b-pt-res', inner='layer_20/width_16k', revision='main')
    >>> named("runs"), named("../other/folder"), named("/data/saes/one")
    (None, None, None)
    """
    match = _NAME.fullmatch(place)
    if match is None or any(part in (".", "..") for part in place.split("/")):
        return None
    return Named(repository=match[1], inner=match[2].strip("/"), revision=match[3])


def download(name: Named) -> Path:
    """Where the repository, folder or file lies on this machine, fetched if it can be and must be.

    A name without an ending may be that of a file of tensors with one.
    """
    inner, prefix = name.inner, _prefix(name)
    beside = [f"{prefix}{own}" for own in (*CONFIGURATIONS, f"{Path(inner).stem}_cfg.json")]
    whole = [f"{inner}{ending}" for ending in TENSORS]
    patterns = [inner, f"{inner}/*", *whole, *beside] if inner else None
    folder = _snapshot(name, patterns)
    if (folder / inner).exists():
        return folder / inner
    files = [folder / own for own in whole if (folder / own).is_file()] if inner else []
    if len(files) == 1:
        return files[0]
    cached = only_cached(name.repository)
    raise ArtifactMissingError(
        f"There is no `{inner}` in `{name.repository}` on the hub"
        f"{', as far as this machine has it and without reaching the hub' if cached else ''}. Look at "
        f"{constants.ENDPOINT}/{name.repository}/tree/main for what there is."
    )


def around(name: Named) -> Path:
    """The folder that would hold what `name` names, with its configurations and nothing else fetched."""
    prefix = _prefix(name)
    return _snapshot(name, [f"{prefix}{own}" for own in CONFIGURATIONS]) / prefix


def _prefix(name: Named) -> str:
    outer, slash, _ = name.inner.rpartition("/")
    return outer + slash


def _snapshot(name: Named, patterns: list[str] | None) -> Path:
    """The folder of the repository on this machine, with the files of these patterns, or with all."""
    cached = only_cached(name.repository)
    try:
        if not cached:
            _check_size(name, patterns)
        folder = huggingface_hub.snapshot_download(
            name.repository,
            revision=name.revision,
            allow_patterns=patterns,
            local_files_only=cached,
        )
    except LocalEntryNotFoundError as error:
        raise ArtifactMissingError(
            f"`{name.repository}` is not in the cache of this machine, and the hub ({constants.ENDPOINT}) "
            "cannot be reached. Fetch it where it can (`hf download`), and pass the folder."
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise ArtifactMissingError(
            f"`{name.repository}` cannot be had from the hub ({str(error).splitlines()[0][:200]}). Correct "
            "the name, or log in (`hf auth login`) if it asks for that."
        ) from error
    return Path(folder)


def upload(folder: Path, repository: str, inner: str, *, private: bool) -> str:
    """Put the files of `folder` into a repository, made if there is none; return its address."""
    api = huggingface_hub.HfApi()
    made = api.create_repo(repository, private=private, exist_ok=True)
    api.upload_folder(repo_id=made.repo_id, folder_path=folder, path_in_repo=inner or None)
    return f"{made.url}/tree/main/{inner}" if inner else str(made.url)


def _check_size(name: Named, patterns: list[str] | None) -> None:
    """Raise `ConfigError` where what would be fetched is far more than one dictionary."""
    files = _all_sizes(name) if patterns is None else _missing_sizes(name, patterns)
    if sum(files.values()) > MOST_BYTES:
        folders = sorted({file.rpartition("/")[0] for file in files} - {""})
        shown = ", ".join(f"`{name.repository}/{folder}`" for folder in folders[:8])
        raise ConfigError(
            f"`{'/'.join(filter(None, (name.repository, name.inner)))}` holds "
            f"{sum(files.values()) / 2**30:,.0f} GiB in {len(files):,} files. Name the folder of one "
            f"dictionary in it: {shown}{', …' if len(folders) > 8 else ''}."
        )


def _all_sizes(name: Named) -> dict[str, int]:
    """Bytes of all files of a repository, which may be thousands: in one question."""
    info = huggingface_hub.HfApi().model_info(
        name.repository, revision=name.revision, files_metadata=True
    )
    return {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}


def _missing_sizes(name: Named, patterns: list[str]) -> dict[str, int]:
    """Bytes of the files of these patterns that are not in the cache."""
    try:
        found = huggingface_hub.snapshot_download(
            name.repository, revision=name.revision, allow_patterns=patterns, dry_run=True
        )
    except DryRunError:  # the hub went silent: the cache is all there is, and nothing is fetched
        return {}
    return {file.filename: file.file_size or 0 for file in found if file.will_download}


def only_cached(place: str) -> bool:
    """Return whether `place` is a name on the hub, and the hub cannot be reached or may not be.

    What the cache of this machine holds is then all there is. The hub's own client would try again
    for most of a minute a file, whether or not the file is cached.
    """
    if Path(place).is_dir():
        return False
    return constants.HF_HUB_OFFLINE or not _reachable(
        constants.ENDPOINT, int(time.monotonic() // AGAIN)
    )


@functools.lru_cache(maxsize=1)
def _reachable(endpoint: str, _minute: int) -> bool:
    """Whether it answers; the answer holds for a minute, after which a long session asks again."""
    if "all" in urllib.request.getproxies():  # a SOCKS proxy, which only the hub's client speaks
        return True
    try:
        with urllib.request.urlopen(
            urllib.request.Request(endpoint, method="HEAD"), timeout=PATIENCE
        ):
            return True
    except urllib.error.HTTPError:  # it answered
        return True
    except urllib.error.URLError as error:  # it answered too, if only with a certificate
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
