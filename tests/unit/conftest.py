"""Lets the unit tests import what stands beside them, such as fake_provider.py, and its server."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def quick(monkeypatch):
    """The fake provider's key, and no long waits."""
    import fake_provider

    monkeypatch.setattr("flux_krea.nodes.jobs.paid_call.LOOK_FOR_LOST", (0.02, 0.05))
    monkeypatch.setattr("flux_krea.nodes.jobs.paid_call.WATCH_OTHERS", 0.03)
    monkeypatch.setenv("FAKE_KEY", fake_provider.KEY)
    monkeypatch.delenv("FLUX_KREA_MAX_COST_USD", raising=False)


@pytest.fixture
def server(monkeypatch, quick):
    import fake_provider

    server = fake_provider.FakeServer()
    for name in fake_provider.PROVIDERS:
        monkeypatch.setenv(f"FLUX_KREA_BASE_URL_{name.upper()}", server.url)
    yield server
    server.stop()


@pytest.fixture
def jobs(tmp_path, server):
    import fake_provider

    jobs = fake_provider.jobs_in(tmp_path)
    yield jobs
    jobs.close()
