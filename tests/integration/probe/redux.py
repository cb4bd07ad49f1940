"""Nodes for the tests of Krea Redux and of acceleration: small parts that ComfyUI has no node for."""

import functools
import json
import sys
import tempfile
from pathlib import Path

import comfy.clip_vision
import comfy.controlnet
import torch


def pack_module(name: str):
    """A module of the pack under test, which ComfyUI loaded under a name of its own."""
    return next(module for key, module in sys.modules.items() if key.endswith(f"flux-krea.nodes.sampling.{name}"))


class ProbeSmallVision:
    """SigLIP with 2 layers for pictures of 56 pixels: 4 × 4 tokens, in ComfyUI's own class."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "build", ("CLIP_VISION",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"width": ("INT", {})}}

    def build(self, width):
        config = {"num_channels": 3, "hidden_act": "gelu_pytorch_tanh", "hidden_size": width, "image_size": 56}
        config |= {"intermediate_size": 64, "model_type": "siglip_vision_model", "num_attention_heads": 16}
        config |= {"num_hidden_layers": 2, "patch_size": 14, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "small.json")
            path.write_text(json.dumps(config))
            vision = comfy.clip_vision.ClipVisionModel(str(path))
        generator = torch.Generator().manual_seed(0)
        for parameter in vision.model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.05
        return (vision,)


class ProbeTokens:
    """Two conditionings beside each other: sizes, whether the tokens are the same, and which of them are in both."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "look", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("CONDITIONING",), "b": ("CONDITIONING",)}}

    def look(self, a, b):
        (a, a_options), (b, b_options) = a[0], b[0]
        rows = [bool((b[0] == row).all(dim=1).any()) for row in a[0]]
        return {
            "ui": {
                "tokens": [a.shape[1], b.shape[1]],
                "equal": [torch.equal(a, b)],
                "same_keys": [a_options.keys() == b_options.keys()],
                "rows_of_a_in_b": [sum(rows)],
            }
        }


class ProbeOverride:
    """Another pack's attention override: counts, and halves the attention so that its absence shows."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "override", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def override(self, model):
        def halved(function, *arguments, **keywords):
            return function(*arguments, **keywords) * 0.5

        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = halved
        return (model,)


class ProbeAccelerated:
    """A model that predicts exactly the steps of a pattern, which no user can choose; what it did is under `tag`."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "attach", ("MODEL",)
    done: dict = {}

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "tag": ("STRING", {}), "pattern": ("STRING", {})}}

    def attach(self, model, tag, pattern):
        acceleration = pack_module("acceleration")
        forced = frozenset(map(int, pattern.split()))
        self.done[tag] = acceleration.Acceleration(acceleration.Budget(1.0), pattern=forced)
        return (self.done[tag].attach(model),)


class ProbeAcceleratedReport:
    """What was computed, once the latent exists, and how many tensors the last run held."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "report", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",), "tag": ("STRING", {})}}

    def report(self, latent, tag):
        return {"ui": {"report": [ProbeAccelerated.done[tag].report()]}}


class ProbeBlockPatch:
    """Another pack's patch on one block: counts its calls under a tag, and scales what the block returns."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "patch", ("MODEL",)
    calls: dict = {}

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "kind": ("STRING", {}), "number": ("INT", {}), "tag": ("STRING", {})}}

    def patch(self, model, kind, number, tag):
        self.calls[tag] = 0

        def scaled(arguments, extra):
            self.calls[tag] += 1
            out = extra["original_block"](arguments)
            return {**out, "img": out["img"] * 1.01}

        model = model.clone()
        model.set_model_patch_replace(scaled, "dit", kind, number)
        return (model,)


class ProbeCalls:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "count", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",), "tag": ("STRING", {})}}

    def count(self, latent, tag):
        return {"ui": {"calls": [ProbeBlockPatch.calls[tag]]}}


class ProbeControl:
    """A ControlNet without a network: adds the same numbers after the first double block and after the first single block."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "control", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        inputs = {"conditioning": ("CONDITIONING",), "end_percent": ("FLOAT", {}), "width": ("INT", {})}
        return {"required": inputs}

    def control(self, conditioning, end_percent, width):
        control = ConstantControl()
        control.width = width
        control.timestep_percent_range = (0.0, end_percent)
        control.set_previous_controlnet(conditioning[0][1].get("control"))
        return ([[text, {**options, "control": control}] for text, options in conditioning],)


class ConstantControl(comfy.controlnet.ControlBase):
    width = 3072

    def get_control(self, x_noisy, t, cond, batched_number, *more):
        before = None
        if self.previous_controlnet is not None:
            before = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, *more)
        if t[0] < self.timestep_range[1]:
            return before
        tokens = x_noisy.shape[-2] * x_noisy.shape[-1] // 4
        add = torch.randn(1, tokens, self.width, generator=torch.Generator().manual_seed(0))
        add = add.expand(len(x_noisy), -1, -1).to(x_noisy)
        add = add if before is None else add + before["input"][0]
        return {"input": [add], "output": [add]}

    def get_models(self):
        return []


class ProbeHold:
    """Keeps a latent for a later prompt."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "hold", (), True
    held: dict = {}

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",), "tag": ("STRING", {})}}

    def hold(self, latent, tag):
        self.held[tag] = latent
        return {"ui": {"held": [tag]}}


class ProbeHeld:
    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "get", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"tag": ("STRING", {})}}

    def get(self, tag):
        return (ProbeHold.held[tag],)


class ProbeForeign:
    """A model that ComfyUI's FLUX code does not run: another class that hands everything on."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "wrap", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def wrap(self, model):
        model = model.clone()
        model.add_object_patch("diffusion_model", Foreign(model.get_model_object("diffusion_model")))
        return (model,)


class Foreign(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = [network]  # not a part of this module: its weights are managed where they are
        self.dtype, self.patch_size = network.dtype, network.patch_size
        self.img_in = network.img_in

    def forward(self, *arguments, **keywords):
        return self.network[0](*arguments, **keywords)


class ProbeReplacedForward:
    """What TeaCache and its kin do: their own copy of FLUX's forward pass while the model runs."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "replace", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def replace(self, model):
        model = model.clone()
        network = model.get_model_object("diffusion_model")
        model.add_object_patch("diffusion_model.forward_orig", functools.partial(network.forward_orig))
        return (model,)


NODES = (
    ProbeSmallVision,
    ProbeTokens,
    ProbeOverride,
    ProbeAccelerated,
    ProbeAcceleratedReport,
    ProbeBlockPatch,
    ProbeCalls,
    ProbeControl,
    ProbeHold,
    ProbeHeld,
    ProbeForeign,
    ProbeReplacedForward,
)
