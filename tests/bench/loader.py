"""Krea Loader, header checks included, beside core's loaders called one by one on the same files.

Core's DualCLIPLoader cannot size a miniature text encoder, so both sides load the encoders with `comfy.sd.load_clip`.
"""

from bench import _pairs
from graphs import FILES, Graph

CORE = ("UNETLoader", "ProbeEncoders", "VAELoader")


def run(arguments):
    with _pairs.server() as comfyui:

        def timed(ours: bool, turn: int) -> float:
            comfyui.post("/free", {"unload_models": True, "free_memory": True}).raise_for_status()
            for file in (_pairs.BASE / "models").rglob("*.safetensors"):
                file.touch()  # another file, as far as Krea Loader knows: nothing is taken from memory
            graph = Graph()
            if ours:
                loader = graph.loader()
                loaded = [[loader, slot] for slot in range(3)]
            else:
                unet = graph.add("UNETLoader", unet_name=FILES["unet_name"], weight_dtype="default")
                clip = graph.add("ProbeEncoders", clip_name1=FILES["clip_name1"], clip_name2=FILES["clip_name2"])
                loaded = [[node, 0] for node in (unet, clip, graph.add("VAELoader", vae_name=FILES["vae_name"]))]
            for thing in loaded:
                graph.add("ProbeObject", thing=thing, again=turn)
            return _pairs.seconds_in(comfyui, graph, ("FluxKreaLoader", *CORE))

        unit = "s, diffusion model, two encoders and VAE"
        yield _pairs.paired("loader", lambda turn: timed(True, turn), lambda turn: timed(False, turn), 7, unit)
