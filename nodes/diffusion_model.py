"""Krea Diffusion Model: the diffusion model alone. A part of Krea Loader."""

from __future__ import annotations

from comfy_api.latest import io

from .bridge.choices import check_choice
from .bridge.newer_schema import found_by
from .model_files import installed_files, loading

WEIGHT_DTYPES = ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")  # as in core's Load Diffusion Model


def model_input() -> io.Combo.Input:
    names = installed_files.model_choices()
    return io.Combo.Input(
        "unet_name",
        options=names,
        default=installed_files.likely(names, "krea", "flux"),
        tooltip="The diffusion model, in models/diffusion_models: bf16, fp8, fp8 scaled or another format of your "
        "ComfyUI. Also an all-in-one checkpoint in models/checkpoints, and a GGUF file where ComfyUI-GGUF is installed.",
    )


def weight_dtype_input() -> io.Combo.Input:
    return io.Combo.Input(
        "weight_dtype",
        options=list(WEIGHT_DTYPES),
        default="default",
        tooltip="default keeps the file's own precision. The fp8 values halve the memory of a bf16 file.",
    )


def find_model(unet_name: str, weight_dtype: str) -> installed_files.ModelFile:
    check_choice("weight_dtype", weight_dtype, WEIGHT_DTYPES)
    model = installed_files.find_model(unet_name)
    installed_files.check_precision(model.weights, weight_dtype)
    return model


class FluxKreaDiffusionModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FluxKreaDiffusionModel",
            display_name="Krea Diffusion Model",
            category="FLUX Krea/parts",
            description="Loads FLUX.1 Krea [dev]'s diffusion model alone, its header checked first.",
            inputs=[model_input(), weight_dtype_input()],
            outputs=[io.Model.Output(display_name="MODEL")],
            **found_by(
                io.Schema,
                "unet, load diffusion model, flux model, flux.1 dev, krea dev, bfl, fp8",
            ),
        )

    @classmethod
    def validate_inputs(cls, unet_name=None):
        """Naming the file leaves it to `execute`, which says more about an absent one than core's check does."""
        return True

    @classmethod
    def execute(cls, unet_name, weight_dtype):
        return io.NodeOutput(loading.model(find_model(unet_name, weight_dtype), weight_dtype))


NODES = [FluxKreaDiffusionModel]
