"""Krea Loader: checks the files by their headers, then lets ComfyUI load them."""

from __future__ import annotations

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from .inference import model_files, weights
from .text_encoders import encoder_inputs

WEIGHT_DTYPES = ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")  # as in core's Load Diffusion Model


class FluxKreaLoader(io.ComfyNode):
    """Expands into one loader a file, so that ComfyUI caches each result: another VAE reloads the VAE and nothing else."""

    @classmethod
    def define_schema(cls):
        models, vaes = model_files.choices("diffusion_models"), model_files.choices("vae")
        return io.Schema(
            node_id="FluxKreaLoader",
            display_name="Krea Loader",
            category="FLUX Krea",
            description="Loads FLUX.1 Krea [dev]: the diffusion model, both text encoders and the VAE. "
            "Every file's header is checked before anything is loaded.",
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=models,
                    default=model_files.likely(models, "krea", "flux"),
                    tooltip="The diffusion model, in models/diffusion_models. LoRAs, fp8 and fp8 scaled files work.",
                ),
                *encoder_inputs(),
                io.Combo.Input(
                    "vae_name",
                    options=vaes,
                    default=model_files.likely(vaes, "ae.safetensors", "flux"),
                    tooltip="The VAE of FLUX.1, in models/vae.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip="default keeps the file's own precision. The fp8 values halve the memory of a bf16 file.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL"),
                io.Clip.Output(display_name="CLIP"),
                io.Vae.Output(display_name="VAE"),
            ],
            enable_expand=True,
        )

    @classmethod
    def validate_inputs(cls, unet_name=None, clip_name1=None, clip_name2=None, vae_name=None):
        """Naming the files here leaves them to `execute`, which says more about an absent one than core's check does."""
        return True

    @classmethod
    def execute(cls, unet_name, clip_name1, clip_name2, vae_name, weight_dtype):
        model = model_files.find("diffusion_models", unet_name, "diffusion_model")
        model_files.check_precision(model.weights, weight_dtype)
        clip_l, t5 = model_files.find_encoders(clip_name1, clip_name2)
        weights.require_match(model.weights, clip_l.weights, t5.weights)
        vae = model_files.find("vae", vae_name, "vae")
        model_files.announce(model.weights, clip_l.weights, t5.weights, vae.weights)
        graph = GraphBuilder()
        loaders = (
            graph.node("UNETLoader", unet_name=model.name, weight_dtype=weight_dtype),
            graph.node("FluxKreaTextEncoders", clip_name1=clip_l.name, clip_name2=t5.name),
            graph.node("VAELoader", vae_name=vae.name),
        )
        return io.NodeOutput(*(loader.out(0) for loader in loaders), expand=graph.finalize())


NODES = [FluxKreaLoader]
