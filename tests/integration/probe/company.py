"""What other packs and flags do to FLUX, in their own ways: attention libraries, replaced forward passes, added tokens."""

import contextlib
import logging
import sys
from types import SimpleNamespace
from unittest.mock import patch

import comfy.ldm.flux.math
import comfy.ldm.modules.attention as attention
import comfy.patcher_extension
import torch
from comfy.ldm.flux.layers import timestep_embedding

from .small_flux import conditioning


def exact(q, k, v) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and the log-sum-exp of its logits; q, k, v [B,H,N,D]."""
    logits = q @ k.mT * q.shape[-1] ** -0.5
    return logits.softmax(-1) @ v, logits.logsumexp(-1)


class Library:
    """`sageattention` and `flash_attn` as they are released, computed exactly, and how often they were called."""

    def __init__(self):
        self.calls = 0

    def sageattn(
        self, q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False, **kwargs
    ):  # an attn_mask ends in kwargs
        self.calls += 1
        output, weight = exact(q, k, v)
        return (output, weight) if return_lse else output

    def flash_attn_func(
        self, q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
        alibi_slopes=None, deterministic=False, return_attn_probs=False,
    ):  # fmt: skip
        self.calls += 1
        output, weight = exact(*(tensor.transpose(1, 2) for tensor in (q, k, v)))
        output = output.transpose(1, 2).contiguous()
        return (output, weight, None) if return_attn_probs else output

    @contextlib.contextmanager
    def chosen(self, name: str):
        """ComfyUI as if it had been started with --use-sage-attention or --use-flash-attention."""
        modules = {"sageattention": SimpleNamespace(sageattn=self.sageattn)}
        modules["flash_attn"] = SimpleNamespace(flash_attn_func=self.flash_attn_func)
        with contextlib.ExitStack() as stack:
            stack.enter_context(patch.dict(sys.modules, modules))
            for function in ("sageattn", "flash_attn_func"):
                stack.enter_context(patch.object(attention, function, getattr(self, function), create=True))
            if hasattr(attention, "SAGE_ATTENTION_SUPPORTS_MASK"):  # newer cores look at the signature
                stack.enter_context(patch.object(attention, "SAGE_ATTENTION_SUPPORTS_MASK", False))
            chosen = getattr(attention, f"attention_{name}")
            stack.enter_context(patch.object(comfy.ldm.flux.math, "optimized_attention", chosen))
            yield


class ProbeAttention:
    """A model that runs under another attention: sage, flash, or an override that ignores masks as KJNodes' does."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "choose", ("MODEL",)
    libraries: dict = {}

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "name": ("STRING", {}), "tag": ("STRING", {})}}

    def choose(self, model, name, tag):
        library = self.libraries[tag] = Library()
        model = model.clone()
        if name == "override":
            model.model_options["transformer_options"]["optimized_attention_override"] = library_override(library)
            return (model,)

        def around_sampling(executor, *arguments, **keywords):
            with library.chosen(name):
                return executor(*arguments, **keywords)

        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "probe_attention", around_sampling)
        return (model,)


def library_override(library: Library):
    def override(function, q, k, v, heads, mask=None, skip_output_reshape=False, **options):
        output = library.sageattn(q, k, v, attn_mask=mask)
        return output if skip_output_reshape else output.transpose(1, 2).flatten(2)

    return override


class ProbeLibraryCalls:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "count", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",), "tag": ("STRING", {})}}

    def count(self, latent, tag):
        return {"ui": {"calls": [ProbeAttention.libraries[tag].calls]}}


class ProbeForward:
    """What WaveSpeed and TeaCache do: while the model runs, a forward pass of theirs stands on the network, and it calls
    the blocks without transformer options. `reuse` keeps every second result, as a cache that hits does."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "replace", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "reuse": ("BOOLEAN", {})}}

    def replace(self, model, reuse):
        model = model.clone()
        network = model.get_model_object("diffusion_model")
        kept = []

        def forward(img, img_ids, txt, txt_ids, timesteps, y, guidance=None, control=None, *_, attn_mask=None, **__):
            if kept and reuse:
                return kept.pop()
            output = own_forward(network, img, img_ids, txt, txt_ids, timesteps, y, guidance, attn_mask)
            kept.append(output)
            return output

        def around_call(apply_model, arguments):
            with patch.object(network, "forward_orig", forward):
                return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

        model.set_model_unet_function_wrapper(around_call)
        return (model,)


def own_forward(network, img, img_ids, txt, txt_ids, timesteps, y, guidance, attn_mask):
    """FLUX from its parts, as a pack knows it that was written before transformer options reached the blocks."""
    img, txt = network.img_in(img), network.txt_in(txt)
    vec = network.time_in(timestep_embedding(timesteps, 256)) + network.vector_in(y)
    vec = vec + network.guidance_in(timestep_embedding(guidance, 256))
    pe = network.pe_embedder(torch.cat((txt_ids, img_ids), dim=1))
    for block in network.double_blocks:
        img, txt = block(img=img, txt=txt, vec=vec, pe=pe, attn_mask=attn_mask)
    both = torch.cat((txt, img), 1)
    for block in network.single_blocks:
        both = block(both, vec=vec, pe=pe, attn_mask=attn_mask)
    return network.final_layer(both[:, txt.shape[1] :], vec)


class ProbeMoreText:
    """What USO's style reference does: tokens of its own in front of the text (or, here also, behind it)."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "add", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "count": ("INT", {}), "in_front": ("BOOLEAN", {})}}

    def add(self, model, count, in_front):
        more = conditioning(99, count)[0][0]

        def post_input(inputs):
            network = model.get_model_object("diffusion_model")
            tokens = network.txt_in(more.to(inputs["txt"])).expand(len(inputs["txt"]), -1, -1)
            ids = torch.zeros(len(tokens), count, 3).to(inputs["txt_ids"])
            for name, added in (("txt", tokens), ("txt_ids", ids)):
                inputs[name] = torch.cat((added, inputs[name]) if in_front else (inputs[name], added), dim=1)
            return inputs

        model = model.clone()
        model.set_model_patch(post_input, "post_input")
        return (model,)


class ProbeStrongerKeys:
    """The slow way to the same end: an override that adds log(strength) to some keys for all but their own queries."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "add", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        inputs = {"model": ("MODEL",), "start": ("INT", {}), "stop": ("INT", {}), "strength": ("FLOAT", {})}
        return {"required": inputs, "optional": {"unmoved": ("INT", {})}}

    def add(self, model, start, stop, strength, unmoved=0):
        def override(function, q, k, v, heads, mask=None, **options):
            mask = torch.zeros(1, 1, q.shape[2], k.shape[2]).to(q)
            mask[..., start:stop] = torch.tensor(strength).log()
            mask[..., start:stop, :] = 0
            mask[..., stop : stop + unmoved, :] = 0
            return function(q, k, v, heads, mask=mask, **options)

        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = override
        return (model,)


class ProbeGraphBreaks:
    """How often torch.compile leaves its graph in one evaluation, with what is in the conditioning."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "count", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "positive": ("CONDITIONING",), "whole": ("BOOLEAN", {})}}

    def count(self, model, positive, whole):
        import comfy.sample
        import comfy.samplers

        model = model.clone()
        network = model.get_model_object("diffusion_model")
        names = ["diffusion_model"]
        if not whole:
            names = [f"diffusion_model.double_blocks.{i}" for i in range(len(network.double_blocks))]
            names += [f"diffusion_model.single_blocks.{i}" for i in range(len(network.single_blocks))]
        from comfy_api.torch_helpers import set_torch_compile_wrapper

        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        set_torch_compile_wrapper(model, backend="eager", keys=names)
        latent = torch.zeros(1, 16, 8, 8)
        sigmas = torch.tensor([1.0, 0.7, 0.4, 0.0])
        sampler = comfy.samplers.sampler_object("euler")
        logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
        comfy.sample.sample_custom(model, latent, 1.0, sampler, sigmas, positive, positive, latent, disable_pbar=True)
        breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        torch._dynamo.reset()
        return {"ui": {"breaks": [breaks], "graphs": [graphs]}}


class ProbeSecondLook:
    """A guidance that looks twice at every step, as PAG does: once more with the attention of all blocks averaged."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "guide", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "scale": ("FLOAT", {})}}

    def guide(self, model, scale):
        import comfy.samplers

        def averaged(function, q, k, v, heads, mask=None, **options):
            return v.mean(2, keepdim=True).expand_as(v).transpose(1, 2).flatten(2)

        def post_cfg(args):
            options = {**args["model_options"]}
            options["transformer_options"] = {
                **options["transformer_options"],
                "optimized_attention_override": averaged,
            }
            (other,) = comfy.samplers.calc_cond_batch(
                args["model"], [args["cond"]], args["input"], args["sigma"], options
            )
            return args["denoised"] + (args["cond_denoised"] - other) * scale

        model = model.clone()
        model.set_model_sampler_post_cfg_function(post_cfg)
        return (model,)


NODES = (
    ProbeAttention,
    ProbeLibraryCalls,
    ProbeForward,
    ProbeMoreText,
    ProbeStrongerKeys,
    ProbeGraphBreaks,
    ProbeSecondLook,
)
