"""Krea VAE: the VAE alone. A part of Krea Loader."""

from __future__ import annotations

from comfy_api.latest import io

from .bridge.newer_schema import found_by
from .model_files import installed_files, loading


def vae_input() -> io.Combo.Input:
    names = installed_files.choices("vae")
    return io.Combo.Input(
        "vae_name",
        options=names,
        default=installed_files.likely(names, "ae.safetensors", "flux"),
        tooltip="The VAE of FLUX.1, in models/vae.",
    )


class FluxKreaVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FluxKreaVAE",
            display_name="Krea VAE",
            category="FLUX Krea/parts",
            description="Loads FLUX.1's VAE alone, its header checked first.",
            inputs=[vae_input()],
            outputs=[io.Vae.Output(display_name="VAE")],
            **found_by(
                io.Schema,
                "load vae, ae.safetensors, flux vae, autoencoder",
            ),
        )

    @classmethod
    def validate_inputs(cls, vae_name=None):
        """Naming the file leaves it to `execute`, which says more about an absent one than core's check does."""
        return True

    @classmethod
    def execute(cls, vae_name):
        return io.NodeOutput(loading.vae(installed_files.find("vae", vae_name, "vae")))


NODES = [FluxKreaVAE]
