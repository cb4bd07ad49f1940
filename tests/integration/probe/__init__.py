"""Nodes for the tests only: they watch a MODEL from outside, through ComfyUI's own wrappers, and compare latents."""

import json

import comfy.sd
import folder_paths
import torch
from comfy.patcher_extension import WrappersMP
from torch.utils._python_dispatch import TorchDispatchMode

from . import company, redux, scenes, small_flux, waiting


class Watch(TorchDispatchMode):
    """Counts the model's evaluations, and the tensor operations that happen outside of them."""

    def __init__(self):
        super().__init__()
        self.evaluations = self.operations = 0
        self.sigmas = []
        self.shift = None
        self.inside_model = False

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.operations += not self.inside_model
        return function(*arguments, **(keywords or {}))

    def around_sampling(self, executor, noise, latent_image, sampler, sigmas, *arguments, **keywords):
        self.sigmas = sigmas.tolist()
        self.shift = float(executor.class_obj.model_patcher.get_model_object("model_sampling").shift)
        with self:
            return executor(noise, latent_image, sampler, sigmas, *arguments, **keywords)

    def around_model(self, executor, *arguments, **keywords):
        self.evaluations += 1
        self.inside_model = True
        try:
            return executor(*arguments, **keywords)
        finally:
            self.inside_model = False


WATCHES: dict[str, Watch] = {}


class ProbeModel:
    """Watches every sampling with this model under a tag."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "watch", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "tag": ("STRING", {})}}

    def watch(self, model, tag):
        WATCHES[tag] = watch = Watch()
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "probe", watch.around_sampling)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "probe", watch.around_model)
        return (model,)


class ProbeReport:
    """What was seen under a tag, once the latent exists; and the latent itself, in numbers."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "report", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",), "tag": ("STRING", {})}}

    def report(self, latent, tag):
        watch, samples = WATCHES[tag], latent["samples"]
        seen = {
            "evaluations": watch.evaluations,
            "operations": watch.operations,
            "sigmas": watch.sigmas,
            "shift": watch.shift,
            "shape": list(samples.shape),
            "finite": bool(torch.isfinite(samples).all()),
            "std": float(samples.std()),
        }
        return {"ui": {"seen": [seen]}}


class ProbeCompare:
    """Whether two latents are the same, bit for bit."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "compare", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("LATENT",), "b": ("LATENT",)}}

    def compare(self, a, b):
        a, b = a["samples"], b["samples"]
        same_shape = a.shape == b.shape
        return {
            "ui": {
                "equal": [bool(torch.equal(a, b))],
                "difference": [float((a - b).abs().max()) if same_shape else None],
                "relative": [float((a - b).norm() / b.norm()) if same_shape else None],
                "spread": [float(a.std())],
            }
        }


class ProbeFirstTokens:
    """A conditioning that ends after some tokens."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "cut", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",), "count": ("INT", {})}}

    def cut(self, conditioning, count):
        return ([[tokens[:, :count], options] for tokens, options in conditioning],)


class Stranger(torch.nn.Module):
    """Runs FLUX without being ComfyUI's class for it, as Nunchaku's wrapper does."""

    def __init__(self, network):
        super().__init__()
        self.__dict__["network"] = network

    def __getattr__(self, name):
        return getattr(self.__dict__["network"], name)

    def forward(self, *arguments, **keywords):
        return self.network(*arguments, **keywords)


class ProbeStranger:
    """The model, run by a class that nobody knows."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "wrap", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def wrap(self, model):
        model = model.clone()
        model.add_object_patch("diffusion_model", Stranger(model.get_model_object("diffusion_model")))
        return (model,)


class ProbeFill:
    """A latent with something in it: ones."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "fill", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",)}}

    def fill(self, samples):
        return ({"samples": torch.ones_like(samples["samples"])},)


class ProbeEncoders:
    """Core's DualCLIPLoader, with the sizes that a miniature needs."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "load", ("CLIP",)
    SIZES = {
        "t5xxl_model_config": {"num_layers": 2, "num_heads": 2, "d_ff": 128},
        "model_config": {"num_hidden_layers": 2},
    }

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"clip_name1": ("STRING", {}), "clip_name2": ("STRING", {})}}

    def load(self, clip_name1, clip_name2):
        paths = [folder_paths.get_full_path_or_raise("text_encoders", name) for name in (clip_name1, clip_name2)]
        options = {key: dict(sizes) for key, sizes in self.SIZES.items()}
        return (comfy.sd.load_clip(ckpt_paths=paths, clip_type=comfy.sd.CLIPType.FLUX, model_options=options),)


class ProbeObject:
    """The identity of a loaded object: the same number twice means that nothing was loaded again."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "identify", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"thing": ("*",), "again": ("INT", {})}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True

    def identify(self, thing, again):
        return {"ui": {"identity": [id(thing)]}}


class ProbeAddGrey:
    """Adds a number to every pixel, without keeping the result between 0 and 1, as any node may."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "add", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "value": ("FLOAT", {"default": 0.0, "min": -1e6, "max": 1e6})}}

    def add(self, image, value):
        return (image + value,)


class ProbeImages:
    """Any batch of noise, also one that no picture can be made of: `shape` is JSON, `wrong` goes into its last number."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        texts = {"shape": ("STRING", {"default": "[1, 8, 8, 3]"}), "dtype": ("STRING", {"default": "float32"})}
        return {"required": {**texts, "wrong": ("STRING", {"default": ""})}}

    def make(self, shape, dtype, wrong):
        images = torch.rand(json.loads(shape), generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
        if wrong:
            images.view(-1)[-1] = float(wrong)
        return (images,)


class AnyType(str):
    """Fits every input, as the outputs of many packs' switches do."""

    def __ne__(self, other):
        return False

    __hash__ = str.__hash__


class ProbeAny:
    """Any JSON value, for any input."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "give", (AnyType("*"),)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("STRING", {"default": "null"})}}

    def give(self, value):
        return (json.loads(value),)


class UnetLoaderGGUF:
    """Stands in for ComfyUI-GGUF's loader: the same id, input and folder key; takes the .safetensors beside the file."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "load_unet", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"unet_name": (folder_paths.get_filename_list("unet_gguf"),)}}

    def load_unet(self, unet_name):
        path = folder_paths.get_full_path_or_raise("unet_gguf", unet_name)
        return (comfy.sd.load_diffusion_model(path.removesuffix(".gguf") + ".safetensors"),)


folder_paths.folder_names_and_paths["unet_gguf"] = (folder_paths.get_folder_paths("diffusion_models"), {".gguf"})

NODE_CLASS_MAPPINGS = {
    node.__name__: node
    for node in (
        ProbeModel,
        ProbeReport,
        ProbeCompare,
        ProbeFirstTokens,
        ProbeFill,
        ProbeStranger,
        ProbeEncoders,
        ProbeObject,
        ProbeAddGrey,
        ProbeImages,
        ProbeAny,
        *company.NODES,
        UnetLoaderGGUF,
        *redux.NODES,
        *scenes.NODES,
        *small_flux.NODES,
        *waiting.NODES,
    )
}
