"""How a picture was made, read from the graph that is running: prompt, settings, and whether a picture went in.

The graph is ComfyUI's prompt, node id → {"class_type", "inputs"}; a link is [node id, output]. It may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Graph = Mapping[str, Any]

TEXTS = ("text", "prompt", "t5xxl", "clip_l")  # inputs that hold a prompt, in the order in which one node's are tried
SEEDS, MODELS = ("seed", "noise_seed"), ("unet_name", "ckpt_name")
POSITIVE, NEGATIVE = ("positive", "conditioning"), ("negative",)
EMPTIED = "ConditioningZeroOut"  # what lies behind it says nothing any more
WIRED_VALUES = ("value", "string", "text", "int", "float", "number")  # of the small nodes that hold one value
NUMBERS = ("width", "height", "size", "x", "y", "scale_by", "megapixels")  # inputs through which no picture comes
LABELS = {  # input → its name on picture sites, in their order
    "steps": "Steps",
    "sampler_name": "Sampler",
    "scheduler": "Schedule type",
    "cfg": "CFG scale",
    "guidance": "Distilled CFG Scale",
    "seed": "Seed",
    "denoise": "Denoising strength",
    "acceleration": "Acceleration",
}


@dataclass(frozen=True)
class Generation:
    """What made a picture. `settings` has the names of ComfyUI's inputs; what nobody can know is absent."""

    prompt: str = ""
    negative: str = ""
    model: str = ""  # the file's name, without folders
    settings: Mapping[str, str | int | float] = field(default_factory=dict)
    from_image: bool = False  # image to image, inpainting, or pasted into another picture

    def as_dict(self) -> dict[str, Any]:
        named = {"prompt": self.prompt, "negative_prompt": self.negative, "model": self.model}
        return {**{name: text for name, text in named.items() if text}, **self.settings}

    def as_line(self, width: int, height: int) -> str:
        """The text that picture sites read: the prompt, and a line of settings."""
        named = [f"{label}: {self.settings[name]}" for name, label in LABELS.items() if name in self.settings]
        named += [f"Size: {width}x{height}", *([f"Model: {self.model}"] if self.model else []), "Version: ComfyUI"]
        negative = [f"Negative prompt: {self.negative}"] if self.negative else []
        return "\n".join([self.prompt, *negative, ", ".join(named)])


def generation_of(graph: Graph, node_id: str) -> Generation:
    """What made the images of this node. Where several generations meet in one batch only `from_image` is known."""
    nodes = {str(id): node for id, node in graph.items() if _is_node(node)}
    inputs = nodes.get(str(node_id), {}).get("inputs", {})
    reached = list(_upstream(nodes, inputs.get("images"), stop=_is_generator))
    generators = [node for node in reached if _is_generator(node)]
    pasted = bool(generators) and any(map(_loads_a_picture, reached))
    from_image = pasted or any(_starts_from_picture(nodes, node) for node in generators)
    if len(generators) != 1:
        return Generation(from_image=from_image)
    return _described(nodes, generators[0], from_image)


def is_about_other_images(graph: Graph, node_id: str) -> bool:
    """Whether the report of this node comes from one of our nodes that its images do not come from.

    Nor is a check about what was generated from the checked images.
    """
    nodes = {str(id): node for id, node in graph.items() if _is_node(node)}
    inputs = nodes.get(str(node_id), {}).get("inputs", {})
    reached = list(_upstream(nodes, inputs.get("images"), stop=_is_generator))
    tellers = [node for node in _upstream(nodes, inputs.get("report"), stop=_is_ours) if _is_ours(node)]
    return any(not any(teller is node for node in reached) for teller in tellers)


def has_other_pictures_in_it(graph: Graph, node_id: str) -> bool:
    """Whether pictures got into these images beside those that the report of this node is about."""
    nodes = {str(id): node for id, node in graph.items() if _is_node(node)}
    inputs = nodes.get(str(node_id), {}).get("inputs", {})
    tellers = [node for node in _upstream(nodes, inputs.get("report"), stop=_is_ours) if _is_ours(node)]

    def tells(node: Mapping[str, Any]) -> bool:
        return any(node is teller for teller in tellers)

    beside = _upstream(nodes, inputs.get("images"), lambda node: tells(node) or _is_generator(node), but=NUMBERS)
    return bool(tellers) and any(not tells(node) and (_is_generator(node) or _loads_a_picture(node)) for node in beside)


def _is_ours(node: Mapping[str, Any]) -> bool:
    return str(node.get("class_type")).startswith("FluxKrea")


def _described(nodes: Graph, generator: Mapping[str, Any], from_image: bool) -> Generation:
    found = {name: _setting(nodes, generator, SEEDS if name == "seed" else (name,)) for name in LABELS}
    settings = {name: value for name, value in found.items() if isinstance(value, (str, int, float)) and value != ""}
    if not from_image:
        settings.pop("denoise", None)
    if settings.get("acceleration") == "none":
        del settings["acceleration"]
    own = _value(nodes, generator["inputs"].get("prompt"))
    prompt = own if isinstance(own, str) else _text(nodes, generator, POSITIVE)
    negative = _text(nodes, generator, NEGATIVE) if settings.get("cfg", 1) != 1 else ""
    file = _setting(nodes, generator, MODELS)
    model = file.replace("\\", "/").rsplit("/", 1)[-1] if isinstance(file, str) else ""
    return Generation(prompt, negative, model, settings, from_image)


def _is_node(node: object) -> bool:
    return isinstance(node, dict) and isinstance(node.get("inputs"), dict)


def _is_generator(node: Mapping[str, Any]) -> bool:
    """A sampler, or an API node. SamplerCustomAdvanced has its seed in another node."""
    inputs: Graph = node["inputs"]
    return ("sigmas" in inputs and "sampler" in inputs) or ("steps" in inputs and not inputs.keys().isdisjoint(SEEDS))


def _loads_a_picture(node: Mapping[str, Any]) -> bool:
    return isinstance(node["inputs"].get("image"), str)


def _starts_from_picture(nodes: Graph, generator: Mapping[str, Any]) -> bool:
    """A loaded picture lies under its latent, or is wired to an API node that does not take it as Redux's reference."""
    inputs = generator["inputs"]
    if inputs.get("image") is not None:
        return bool(inputs.get("image_use") != "redux")
    latent = list(_upstream(nodes, inputs.get("latent_image")))
    encoded = any("pixels" in node["inputs"] for node in latent)
    masked = any("mask" in node["inputs"] for node in latent)
    ignored = _setting(nodes, generator, ("denoise",)) == 1 and not masked
    return encoded and not ignored and any(map(_loads_a_picture, latent))


def _upstream(
    nodes: Graph, link: object, stop: Any = lambda node: False, but: Sequence[str] = ()
) -> Iterator[Mapping[str, Any]]:
    """The nodes that a link comes from, nearest first, each once; not past one at which `stop` says so, nor through an
    input of a name in `but`."""
    waiting, seen = [link], set()
    while waiting:
        id = _source(nodes, waiting.pop(0))
        if id is None or id in seen:
            continue
        seen.add(id)
        yield nodes[id]
        if not stop(nodes[id]):
            waiting += [value for name, value in nodes[id]["inputs"].items() if name not in but]


def _source(nodes: Graph, link: object) -> str | None:
    """The id of the node at the other end, None for what is no link."""
    if isinstance(link, list) and len(link) == 2 and isinstance(link[0], (str, int)) and str(link[0]) in nodes:
        return str(link[0])
    return None


def _setting(nodes: Graph, generator: Mapping[str, Any], names: Sequence[str]) -> object:
    """The generator's own value, else that of the nearest node before it that is no generator itself."""
    for name in names:
        if name in generator["inputs"]:
            return _value(nodes, generator["inputs"][name])
    for link in generator["inputs"].values():
        for node in _upstream(nodes, link, stop=_is_generator):
            for name in names:
                if name in node["inputs"] and not _is_generator(node):
                    return _value(nodes, node["inputs"][name])
    return None


def _text(nodes: Graph, generator: Mapping[str, Any], names: Sequence[str]) -> str:
    """The text behind one of these inputs, "" where there is none."""
    link = next((generator["inputs"][name] for name in names if name in generator["inputs"]), None)
    if link is None and "guider" in generator["inputs"]:
        guider = _source(nodes, generator["inputs"]["guider"])
        held = nodes[guider]["inputs"] if guider else {}
        link = next((held[name] for name in names if name in held), None)
    for node in _upstream(nodes, link, stop=lambda node: node.get("class_type") == EMPTIED):
        for name in TEXTS:
            text = _value(nodes, node["inputs"].get(name))
            if isinstance(text, str) and node.get("class_type") != EMPTIED:
                return text
    return ""


def _value(nodes: Graph, value: object) -> object:
    """A widget's value, also where one small node that holds nothing else is wired to it; None where nobody knows."""
    id = _source(nodes, value)
    if id is None:
        return value if isinstance(value, (str, int, float)) else None
    held = nodes[id]["inputs"]
    return next((held[name] for name in WIRED_VALUES if isinstance(held.get(name), (str, int, float))), None)
