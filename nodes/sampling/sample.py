"""Sampling with ComfyUI's own engine: guidance, the `krea` schedule, and one call of `comfy.sample.sample_custom`."""

from __future__ import annotations

import logging
from collections.abc import Callable

import comfy.ldm.flux.model
import comfy.model_base
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import node_helpers
import torch

from . import redux, schedule

KREA = "krea"


def scheduler_names() -> list[str]:
    """`krea` first, then every scheduler of this ComfyUI."""
    return [KREA, *comfy.samplers.SCHEDULER_NAMES]


def sample(
    model, positive: list, latent: dict, *, seed: int, steps: int, guidance: float, denoise: float, sampler_name: str,
    scheduler: str, negative: list | None = None, cfg: float = 1.0, say: Callable[[str], object] | None = None,
) -> dict:  # fmt: skip
    """Denoises `latent` (samples [B,16,H,W]) and returns a latent of the same form.

    With a core scheduler this is FluxGuidance + KSampler, bit for bit and in as many model evaluations. `say` is told, as
    the log is, what of the user's wishes has no effect here, and when a reference counts that changes with time.
    """
    notes = model_notes(model, scheduler)
    image = empty_latent_to_model(model, latent)
    if scheduler == KREA:
        model = with_shift_of(model, image)
    levels = noise_levels(model, steps, denoise, sampler_name, scheduler)
    notes += redux.notes([positive, negative], levels, model.get_model_object("model_sampling"))
    for note in notes:
        logging.warning("Krea Sampler: %s", note)
        if say:
            say(note)
    positive = node_helpers.conditioning_set_values(positive, {"guidance": guidance})
    model, positive, negative = redux.without_hooks(model, positive, negative)
    samples = comfy.sample.sample_custom(
        model,
        comfy.sample.prepare_noise(image, seed, latent.get("batch_index")),
        cfg,
        comfy.samplers.sampler_object(sampler_name),
        levels,
        positive,
        positive if negative is None else negative,  # at cfg 1 the negative is never evaluated
        image,
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return {**latent_without_empty_marks(latent), "samples": samples}


def noise_levels(model, steps: int, denoise: float, sampler_name: str, scheduler: str) -> torch.Tensor:
    """The sigmas to walk. Below denoise 1 the walk starts at t = denoise and still takes `steps` steps, as in KSampler."""
    if scheduler != KREA:
        return comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler, denoise).sigmas
    if denoise <= 0:
        return torch.FloatTensor([])
    whole = steps if denoise > 0.9999 else int(steps / denoise)
    mu = model.get_model_object("model_sampling").shift
    if sampler_name in comfy.samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS:
        levels = schedule.sigmas(whole + 1, mu)
        levels = levels[:-2] + levels[-1:]
    else:
        levels = schedule.sigmas(whole, mu)
    return torch.tensor(levels[-(steps + 1) :], device=model.load_device)


def with_shift_of(model, samples: torch.Tensor):
    """A clone whose own shift agrees with the schedule for this size, so that start and end percents mean the same."""
    model_sampling = type("KreaSampling", (comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST), {})
    shifted = model_sampling(model.model.model_config)
    shifted.set_parameters(shift=schedule.shift(schedule.token_count(*samples.shape[-2:])))
    model = model.clone()
    model.add_object_patch("model_sampling", shifted)
    return model


def empty_latent_to_model(model, latent) -> torch.Tensor:
    """The latent's samples with the model's channels; an image encoded for another model is refused."""
    marks = {key: latent[key] for key in EMPTY_LATENT_MARKS if key in latent}  # only newer cores set and take them
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], **marks)
    wanted = model.get_model_object("latent_format").latent_channels
    if samples.shape[1] != wanted:
        raise ValueError(
            f"latent_image has {samples.shape[1]} channels, this model works on {wanted}: encode the image with the VAE "
            "of FLUX.1 (ae.safetensors), or take an empty latent from Krea Size."
        )
    return samples


EMPTY_LATENT_MARKS = ("downscale_ratio_spacial", "downscale_ratio_temporal")  # sic: ComfyUI's own spelling


def latent_without_empty_marks(latent) -> dict:
    return {key: value for key, value in latent.items() if key not in EMPTY_LATENT_MARKS}


def is_core_flux(model) -> bool:
    """Whether ComfyUI's own FLUX code runs this model: GGUF, fp8 and LoRA models do, Nunchaku's do not."""
    return isinstance(model.get_model_object("diffusion_model"), comfy.ldm.flux.model.Flux)


def model_notes(model, scheduler: str) -> list[str]:
    """What will have no effect on this model. Raises ValueError for one that the schedule would ruin."""
    network = model.get_model_object("diffusion_model")
    if scheduler == KREA and not isinstance(model.model, comfy.model_base.Flux):
        raise ValueError(
            f"scheduler krea is FLUX.1's own, and this model is {type(model.model).__name__}: load FLUX.1 Krea [dev] with "
            "Krea Loader, or take another scheduler."
        )
    notes = []
    if scheduler == KREA and "model_sampling" in model.object_patches:
        notes.append(
            "scheduler krea computes the shift from the size of the picture, so the ModelSamplingFlux (or other sampling "
            "node) on this model has no effect: take scheduler simple to use it."
        )
    if not is_core_flux(model):
        notes.append(
            f"this model runs {type(network).__name__}, not ComfyUI's FLUX. It is sampled as it is; the strength of Krea "
            "Redux has no effect on it, and guidance only if it reads it."
        )
    elif not network.params.guidance_embed:
        notes.append("this FLUX model has no guidance embedding (schnell), so guidance has no effect.")
    return notes
