"""What the server's environment says. The only file of the pack that reads it; a workflow can set none of this."""

from __future__ import annotations

import math
import os

BASE_URL = "FLUX_KREA_BASE_URL_"
PATIENCE = "FLUX_KREA_PATIENCE_SECONDS"


def variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def base_url(provider_id: str) -> str:
    """The address that stands in for all of a provider's hosts, "" when nothing does."""
    return variable(BASE_URL + provider_id.upper()).rstrip("/")


def patience_seconds() -> float | None:
    """The longest that anything is waited for at a provider: for tests, and for whoever wants errors sooner."""
    try:
        seconds = float(variable(PATIENCE))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
