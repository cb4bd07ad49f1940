"""A FLUX of ComfyUI's own code that is small enough for many runs in a second, with random weights."""

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import torch
from comfy.ldm.flux.model import FluxParams

SIZES = {"hidden_size": 256, "num_heads": 2, "depth": 3, "depth_single_blocks": 4}


def config(**sizes) -> dict:
    """ComfyUI's own words for FLUX.1 [dev], with other sizes."""
    values = {"in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 768, "context_in_dim": 4096}
    values |= {"mlp_ratio": 4.0, "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "guidance_embed": True}
    if "txt_ids_dims" in FluxParams.__dataclass_fields__:  # newer cores want to be told
        values["txt_ids_dims"] = []
    return {**values, **SIZES, **sizes}


def model_patcher(weights: dict | None = None, **sizes):
    """A MODEL; `weights` by FLUX's own keys, else random ones that move the picture a good deal."""
    described = comfy.supported_models.Flux({"image_model": "flux", **config(**sizes)})
    described.set_inference_dtype(torch.float32, None)
    model = described.get_model({}, "")
    network = model.diffusion_model
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if weights is not None:
            parameter.data = weights[name].float().clone()
        elif parameter.ndim < 2:
            parameter.data = torch.full(parameter.shape, 1.0 if "_norm" in name else 0.0)  # of queries and keys
        else:
            spread = parameter.shape[1] ** -0.5
            parameter.data = torch.randn(parameter.shape, generator=generator) * spread
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=device, offload_device=torch.device("cpu"))


class ProbeSmallFlux:
    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "build", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def build(self):
        return (model_patcher(),)


class ProbeText:
    """A prompt of random tokens."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "build", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {}), "tokens": ("INT", {})}}

    def build(self, seed, tokens):
        return (conditioning(seed, tokens),)


class ProbeSigmas:
    """Any noise levels, as text with spaces."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "read", ("SIGMAS",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"levels": ("STRING", {})}}

    def read(self, levels):
        return (torch.tensor([float(level) for level in levels.split()]),)


def conditioning(seed: int = 0, tokens: int = 16) -> list:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, 4096, generator=generator)
    return [[text, {"pooled_output": torch.randn(1, 768, generator=generator)}]]


NODES = (ProbeSmallFlux, ProbeText, ProbeSigmas)
