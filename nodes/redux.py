"""Krea Redux: pictures as part of the prompt."""

from __future__ import annotations

from comfy_api.latest import io

from .bridge.choices import check_choice
from .bridge.newer_schema import found_by
from .sampling import redux, redux_tokens

AS_STRENGTH = -1.0  # of end_strength: no change over the run


class FluxKreaRedux(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FluxKreaRedux",
            display_name="Krea Redux",
            category="FLUX Krea",
            description="Adds reference pictures to the prompt with FLUX.1 Redux: how strongly, in how much detail, "
            "which part of them, and where in the result. ComfyUI's own samplers honour it too.",
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="The prompt. Several Krea Redux nodes may follow each other."
                ),
                io.StyleModel.Input("style_model", tooltip="flux1-redux-dev.safetensors, from Load Style Model."),
                io.ClipVision.Input(
                    "clip_vision", tooltip="sigclip_vision_patch14_384.safetensors, from Load CLIP Vision."
                ),
                io.Image.Input("image", tooltip="The reference. A batch is several references at the same strength."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How much the reference counts beside the prompt. 1.0 is Redux as it is and usually drowns "
                    "the prompt, 0.1 to 0.5 leaves room for it, 0 is no Redux at all.",
                ),
                io.Combo.Input(
                    "strength_type",
                    options=list(redux.STRENGTH_TYPES),
                    default=redux.ATTN_BIAS,
                    tooltip="attn_bias fades between no Redux and more than Redux. multiply scales the tokens and is "
                    "no fade: at 0 hundreds of empty tokens stay, further from no Redux than full Redux is.",
                ),
                io.Int.Input(
                    "detail",
                    default=redux_tokens.FULL_DETAIL,
                    min=1,
                    max=redux_tokens.FULL_DETAIL,
                    tooltip="Tokens along each side of a reference: 27 keeps everything, 9 the mood, 1 little more "
                    "than the colours. Fewer tokens are also faster.",
                ),
                io.Combo.Input(
                    "crop",
                    options=list(redux_tokens.CROPS),
                    default=redux_tokens.SQUASH,
                    tooltip="Redux sees squares. squash: the whole picture, distorted, as the reference implementation "
                    "does. center: its middle. letterbox: the whole picture, undistorted. mask area: around the mask.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where in the reference to look; one mask, or one for each image."
                ),
                io.Mask.Input(
                    "result_mask",
                    optional=True,
                    tooltip="Where in the result the reference counts; grey is weaker. The prompt sees its mean.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    tooltip="From when on the reference counts, as in ComfyUI's ControlNet nodes. Before that it is not in "
                    "the prompt at all: start late to leave the composition to the prompt.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    tooltip="Until when the reference counts. End early to leave the details to the prompt; those steps "
                    "are faster, too.",
                ),
                io.Float.Input(
                    "end_strength",
                    default=AS_STRENGTH,
                    min=AS_STRENGTH,
                    max=10.0,
                    step=0.01,
                    optional=True,
                    tooltip="The strength at the last of its steps: it goes there evenly from strength at the first one. -1 "
                    "keeps strength as it is.",
                ),
                io.Float.Input(
                    "prompt_strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    optional=True,
                    tooltip="How much the prompt counts beside the references while this one counts: 2 or 3 where Redux "
                    "ignores the prompt. Of several Krea Redux nodes in a row the values are multiplied.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="CONDITIONING")],
            **found_by(
                io.Schema,
                "flux redux, ip-adapter, ipadapter, image prompt, reference image, style reference, style model, "
                "variation, siglip, bfl",
                shelf="Image Generation",
            ),
        )

    @classmethod
    def execute(
        cls, conditioning, style_model, clip_vision, image, strength, strength_type, detail, crop,
        mask=None, result_mask=None, start_percent=0.0, end_percent=1.0, end_strength=AS_STRENGTH, prompt_strength=1.0,
    ):  # fmt: skip
        check_choice("strength_type", strength_type, redux.STRENGTH_TYPES)
        check_choice("crop", crop, redux_tokens.CROPS)
        settings = redux.Settings(
            strength,
            strength_type,
            result_mask,
            start_percent,
            end_percent,
            end_strength=None if end_strength < 0 else end_strength,
            prompt_strength=prompt_strength,
        )
        redux.check(settings)
        if settings.is_nothing and strength_type == redux.ATTN_BIAS:
            return io.NodeOutput(conditioning)
        tokens = redux_tokens.reference_tokens(style_model, clip_vision, image, crop=crop, mask=mask, detail=detail)
        return io.NodeOutput(redux.apply(conditioning, tokens, settings))


NODES = [FluxKreaRedux]
