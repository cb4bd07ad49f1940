"""One run of the pack's library, to be killed: a job at every provider at once. Prints how each ended, as JSON."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import conftest  # noqa: F401  loads the pack
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.providers import providers
from flux_krea.nodes.providers.contract import GenerationRequest, ProviderError

folder, prompt = Path(sys.argv[1]), sys.argv[2]
jobs = Jobs(folder, folder / "pictures")


def run(provider: str) -> str:
    request = GenerationRequest(prompt, width=512, height=512, steps=12, seed=7)
    try:
        jobs.start(provider, request).result(60)
    except ProviderError as error:
        return f"{type(error).__name__}: {error}"
    return "picture"


with ThreadPoolExecutor(5) as pool:
    print(json.dumps(dict(zip(providers(), pool.map(run, providers()), strict=True))))
