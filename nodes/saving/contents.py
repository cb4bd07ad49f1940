"""What stands beside the pixels of each picture of a batch: put together once, cleaned of secrets, told to the user."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from . import xmp
from .generation import Generation, generation_of, has_other_pictures_in_it, is_about_other_images
from .picture_file import Texts, embedded
from .receipt import Report, read_report, receipt_of, word

SIGNS = NONE, MADE_BY_AI = ("none", "made by AI")
UNKNOWN_SYSTEM = "ComfyUI"
LEFT_OUT = (
    "{name:.60}, which another pack wants in the file, was left out: its name is taken or not plain ASCII, or its value is "
    "no JSON."
)
OTHERS_IN_IT = "Other pictures got into these images behind the report's node: the receipt says “not checked”."


@dataclass(frozen=True)
class Contents:
    """One run's. `embeds`: workflow and prompt; `tells`: the receipt, which --disable-metadata takes away too."""

    agent: str  # this program and its version
    sign: str
    tells: bool
    embeds: bool
    prompt: str
    extra: Mapping[str, str]
    generation: Generation
    report: Report
    count: int
    notes: tuple[str, ...]
    time: str
    clean: Callable[[str], str]

    @property
    def source_type(self) -> str:
        return xmp.MADE_FROM_PICTURE if self.generation.from_image or self.report.from_image else xmp.MADE_BY_AI

    def texts(self, index: int, size: tuple[int, int]) -> Texts:
        """For one picture of (width, height)."""
        receipt = receipt_of(self.report, index, self.count, size) if self.tells else {}
        generation = self.generation
        if type(receipt.get("seed")) is int:  # the provider's, where the widget says -1
            generation = replace(generation, settings={**generation.settings, "seed": receipt["seed"]})
        line = (
            self.clean(generation.as_line(*size)) if self.embeds and (generation.prompt or generation.settings) else ""
        )
        short = self._properties(receipt, None)
        whole = self._properties(receipt, generation) if self.embeds else short
        return Texts(
            prompt=self.prompt if self.embeds else "",
            extra=self.extra if self.embeds else {},
            parameters=line,
            xmp=xmp.packet(whole) if whole else b"",
            short_xmp=xmp.packet(short) if short else b"",
        )

    def _properties(self, receipt: Mapping[str, Any], generation: Generation | None) -> dict[str, str]:
        """XMP's. Without a generation nothing of the prompt."""
        signed = self.sign == MADE_BY_AI
        if not signed and not self.tells:
            return {}
        properties = {xmp.CREATOR: self.agent}
        if signed:
            properties |= {xmp.SOURCE_TYPE: self.source_type, xmp.SYSTEM: self._system(generation)}
        if generation and signed and generation.prompt:
            properties[xmp.PROMPT] = self.clean(_prompts(generation))
        if generation and generation.as_dict():
            properties[xmp.GENERATION] = self.clean(json.dumps(generation.as_dict()))
        if receipt:
            told = {"made_with": self.agent, "time": self.time, **receipt}
            properties[xmp.RECEIPT] = self.clean(json.dumps(told))
        return properties

    def _system(self, generation: Generation | None) -> str:
        """What drew it: the provider's model, else the model file's name where the workflow is embedded too."""
        if provider := word(self.report.provider.get("provider_name")):
            return self.clean(f"FLUX.1 Krea [dev] ({provider})")
        model = generation.model if generation else ""
        return self.clean(f"{model} ({UNKNOWN_SYSTEM})") if model else UNKNOWN_SYSTEM


def _prompts(generation: Generation) -> str:
    negative = f"\nNegative prompt: {generation.negative}" if generation.negative else ""
    return generation.prompt + negative


def contents_of(
    graph: object,
    extra: object,
    node_id: str,
    report: str | None,
    count: int,
    *,
    agent: str,
    sign: str,
    embed: bool,
    metadata: bool,
    clean: Callable[[str], str],
) -> Contents:
    """`metadata` is False under --disable-metadata; `clean` takes secrets out of a text."""
    nodes = graph if isinstance(graph, dict) else {}
    clean = lru_cache(clean)  # the prompt is the same in each file of a batch
    read = read_report(report, count)
    if is_about_other_images(nodes, node_id):
        read = Report({}, {}, {}, "report comes from a node that these images do not come from: it was left out.")
    elif has_other_pictures_in_it(nodes, node_id):
        read = read.without_verdicts(OTHERS_IN_IT)
    notes = [read.complaint] if read.complaint else []
    embeds = embed and metadata
    prompt, extras, left_out = embedded(graph, extra) if embeds else ("", {}, [])
    notes += [LEFT_OUT.format(name=clean(name)) for name in left_out]
    cleaned, cleaned_extras = clean(prompt), {name: clean(text) for name, text in extras.items() if clean(name) == name}
    if (cleaned, cleaned_extras) != (prompt, extras):
        notes.append("A key or a signed address stood in the workflow: it is hidden in the file. Take it out of there.")
    if embed and not metadata:
        notes.append("ComfyUI runs with --disable-metadata: no workflow, prompt or receipt is in the file.")
    return Contents(
        agent=agent,
        sign=sign,
        tells=metadata,
        embeds=embeds,
        prompt=cleaned,
        extra=cleaned_extras,
        generation=generation_of(nodes, node_id),
        report=read,
        count=count,
        notes=tuple(notes),
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        clean=clean,
    )
