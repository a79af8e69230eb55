"""Whether the Hugging Face hub can be asked, known in seconds and not after minutes of retries."""

import functools
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from huggingface_hub import constants

PATIENCE = 5.0
"""Seconds that the hub may take to answer."""


def only_cached(place: str) -> bool:
    """Return whether `place` is a name on the hub, and the hub cannot be reached or may not be.

    What the cache of this machine holds is then all there is. The hub's own client would try again
    for most of a minute a file, whether or not the file is cached.
    """
    if Path(place).is_dir():
        return False
    return constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT)


@functools.cache
def _reachable(endpoint: str) -> bool:
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
