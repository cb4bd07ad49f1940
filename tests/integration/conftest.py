"""A second ComfyUI, for what its operator's environment decides."""

import fault_table
import pytest
from comfyui import ComfyUI


@pytest.fixture(scope="session")
def hasty(all_standins, tmp_path_factory):
    """It waits for a provider as long as the table of faults does, and lets other machines write keys."""
    wishes = {"FLUX_KREA_PATIENCE_SECONDS": fault_table.PATIENCE, "FLUX_KREA_ALLOW_REMOTE_KEYS": "1"}
    base = tmp_path_factory.mktemp("hasty")
    with ComfyUI(base, arguments=("--cpu",), environment={**all_standins.env, **wishes}) as server:
        yield server
