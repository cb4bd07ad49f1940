"""Krea Loader: checks all four files by their headers, then loads what is not in memory yet."""

from __future__ import annotations

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from .bridge.newer_schema import found_by
from .diffusion_model import find_model, model_input, weight_dtype_input
from .model_files import installed_files, loading, weights
from .text_encoders import encoder_inputs
from .vae import vae_input


class FluxKreaLoader(io.ComfyNode):
    """Expands into one node a part, so that ComfyUI caches the three one by one: another VAE reloads the VAE only.

    Newer cores drop the parts from their cache and keep this node's outputs: there, what is alive is handed on directly.
    """

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FluxKreaLoader",
            display_name="Krea Loader",
            category="FLUX Krea",
            description="Loads FLUX.1 Krea [dev]: the diffusion model, both text encoders and the VAE. "
            "Every file's header is checked before anything is loaded.",
            inputs=[model_input(), *encoder_inputs(), vae_input(), weight_dtype_input()],
            outputs=[
                io.Model.Output(display_name="MODEL"),
                io.Clip.Output(display_name="CLIP"),
                io.Vae.Output(display_name="VAE"),
            ],
            enable_expand=True,
            **found_by(
                io.Schema,
                "flux loader, load flux, flux.1 dev, krea dev, bfl, black forest labs, load diffusion model, "
                "unet, dual clip, t5, vae, fp8, checkpoint",
                shelf="Image Generation",
            ),
        )

    @classmethod
    def validate_inputs(cls, unet_name=None, clip_name1=None, clip_name2=None, vae_name=None):
        """Naming the files leaves them to `execute`, which says more about an absent one than core's check does."""
        return True

    @classmethod
    def execute(cls, unet_name, clip_name1, clip_name2, vae_name, weight_dtype):
        model = find_model(unet_name, weight_dtype)
        clip_l, t5 = installed_files.find_encoders(clip_name1, clip_name2)
        weights.require_match(model.weights, clip_l.weights, t5.weights)
        vae = installed_files.find("vae", vae_name, "vae")
        installed_files.announce(model.weights, clip_l.weights, t5.weights, vae.weights)
        graph = GraphBuilder()
        parts = {
            loading.model_key(model, weight_dtype): graph.node(
                "FluxKreaDiffusionModel", unet_name=model.name, weight_dtype=weight_dtype
            ),
            loading.encoders_key(clip_l, t5): graph.node(
                "FluxKreaTextEncoders", clip_name1=clip_l.name, clip_name2=t5.name
            ),
            loading.vae_key(vae): graph.node("FluxKreaVAE", vae_name=vae.name),
        }
        outputs = (loading.in_memory(key) or part.out(0) for key, part in parts.items())
        return io.NodeOutput(*outputs, expand=graph.finalize())


NODES = [FluxKreaLoader]
