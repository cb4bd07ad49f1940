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
        # What an all-in-one checkpoint brings is taken from it; the files chosen beside it are then not looked at.
        own = weights.beside_the_model(model.weights.path) if model.folder == installed_files.CHECKPOINTS else {}
        for part in own.values():
            installed_files.check_quantization(part)
        graph = GraphBuilder()
        values = {"unet_name": model.name, "weight_dtype": weight_dtype}
        unet = alive_or_node(loading.model_key(model, weight_dtype), graph.node("FluxKreaDiffusionModel", **values))
        if {"clip_l", "t5"} <= own.keys():
            clip_l, t5 = own["clip_l"], own["t5"]
            clip = loading.checkpoint_encoders(model, clip_l, t5)
        else:
            files = installed_files.find_encoders(clip_name1, clip_name2)
            clip_l, t5 = (file.weights for file in files)
            names = {"clip_name1": files[0].name, "clip_name2": files[1].name}
            clip = alive_or_node(loading.encoders_key(*files), graph.node("FluxKreaTextEncoders", **names))
        weights.require_match(model.weights, clip_l, t5)
        if "vae" in own:
            vae_file, vae = own["vae"], loading.checkpoint_vae(model)
        else:
            file = installed_files.find("vae", vae_name, "vae")
            vae_file = file.weights
            vae = alive_or_node(loading.vae_key(file), graph.node("FluxKreaVAE", vae_name=file.name))
        installed_files.announce(model.weights, clip_l, t5, vae_file)
        return io.NodeOutput(unet, clip, vae, expand=graph.finalize())


def alive_or_node(key: tuple, part):
    """What is in memory under this key, else the output of the part that loads it.

    The part belongs to the expansion in either case: ComfyUI's cache of it is what keeps the thing in memory.
    """
    return loading.in_memory(key) or part.out(0)


NODES = [FluxKreaLoader]
