"""ComfyUI's engine inside this process, without its server: for measurements that need the model in hand."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import conftest  # noqa: F401  loads the pack
import torch
from comfyui import COMFYUI

sys.path.insert(0, str(COMFYUI))

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.use_pytorch_cross_attention = True
comfy.cli_args.args.cpu = not torch.cuda.is_available()

import comfy.sd  # noqa: E402
from flux_krea.nodes.model_files import weights  # noqa: E402

DEVICE = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def load_model(path: Path | str):
    return comfy.sd.load_diffusion_model(str(path))


def load_vae(path: Path | str):
    weights, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    return comfy.sd.VAE(sd=weights, metadata=metadata)


def encode(clip_l: Path | str, t5: Path | str, prompt: str) -> list:
    clip = comfy.sd.load_clip([str(clip_l), str(t5)], clip_type=comfy.sd.CLIPType.FLUX)
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def encode_all(clip_l: Path | str, t5: Path | str, prompts: list[str], tokens: int) -> list[list]:
    """A conditioning for each prompt, by encoders of any size, their padding cut to so many tokens."""
    options = weights.encoder_options(weights.inspect(clip_l), weights.inspect(t5))
    clip = comfy.sd.load_clip([str(clip_l), str(t5)], clip_type=comfy.sd.CLIPType.FLUX, model_options=options)
    cut = {"t5xxl_min_length": tokens}
    return [clip.encode_from_tokens_scheduled(clip.tokenize(prompt, tokenizer_options=cut)) for prompt in prompts]


def narrow_flux() -> None:
    """Lets this ComfyUI load models narrower than FLUX.1."""
    importlib.import_module("narrow_flux")


def with_easycache(model, threshold: float):
    """Core's EasyCache node with its own defaults but the threshold."""
    from comfy_extras.nodes_easycache import EasyCacheNode

    return EasyCacheNode.execute(model, threshold, 0.15, 0.95, False).args[0]


def random_conditioning(seed: int = 0, tokens: int = 256) -> list:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, 4096, generator=generator)
    return [[text, {"pooled_output": torch.randn(1, 768, generator=generator)}]]


def with_skipped_layers(model):
    """Core's skip-layer guidance over the whole run."""
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    return SkipLayerGuidanceDiT.execute(model, 3.0, 0.0, 1.0, "", "1, 2", 0.0).args[0]


def with_second_look(model, scale: float = 2.0):
    """A guidance that looks twice at every step, as PAG does: once more with the attention of all blocks averaged."""
    import comfy.samplers

    def averaged(function, q, k, v, heads, mask=None, **options):
        return v.mean(2, keepdim=True).expand_as(v).transpose(1, 2).flatten(2)

    def post_cfg(given: dict):
        options = given["model_options"]["transformer_options"] | {"optimized_attention_override": averaged}
        options = given["model_options"] | {"transformer_options": options}
        (other,) = comfy.samplers.calc_cond_batch(
            given["model"], [given["cond"]], given["input"], given["sigma"], options
        )
        return given["denoised"] + (given["cond_denoised"] - other) * scale

    model = model.clone()
    model.set_model_sampler_post_cfg_function(post_cfg)
    return model


def with_control(prompt: list) -> list:
    """A ControlNet without a network beside the prompt: it adds the same random numbers to the tokens at every step."""
    import comfy.controlnet

    class Control(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy, *_):
            tokens = x_noisy.shape[-2] * x_noisy.shape[-1] // 4
            numbers = torch.randn(1, tokens, 128, generator=torch.Generator().manual_seed(0))
            return {"input": [numbers.expand(len(x_noisy), -1, -1).to(x_noisy)], "output": []}

        def get_models(self):
            return []

    control = Control()
    control.timestep_percent_range = (0.0, 1.0)
    return [[text, {**options, "control": control}] for text, options in prompt]
