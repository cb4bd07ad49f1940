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
from flux_krea.nodes.providers.loras import loras_of

LORA = "owner/style 0.8"


def columns(names) -> dict[str, tuple[str, str]]:
    """What is under way at a kill: name → (provider, LoRAs). A LoRA is another app at fal."""
    return {**{name: (name, "") for name in names}, "fal with a LoRA": ("fal", LORA)}


def prompt_of(name: str, prompt: str) -> str:
    """By which a job is known at its stand-in."""
    return f"{prompt}, {name}"


def run(jobs: Jobs, name: str, prompt: str) -> str:
    provider, loras = columns(providers())[name]
    request = GenerationRequest(prompt_of(name, prompt), width=512, height=512, steps=12, seed=7, loras=loras_of(loras))
    try:
        jobs.start(provider, request).result(60)
    except ProviderError as error:
        return f"{type(error).__name__}: {error}"
    return "picture"


def main(folder: Path, prompt: str) -> None:
    jobs, names = Jobs(folder, folder / "pictures"), columns(providers())
    with ThreadPoolExecutor(len(names)) as pool:
        ends = pool.map(lambda name: run(jobs, name, prompt), names)
        print(json.dumps(dict(zip(names, ends, strict=True))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
