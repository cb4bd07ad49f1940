"""For tests and the demo: ComfyUI 0.3.75 gives every FLUX model 24 heads. A narrower one has as many as its width holds.

Later versions count the heads of FLUX.1 so by themselves; there this changes nothing.
"""

import comfy.model_detection as detection

NODE_CLASS_MAPPINGS: dict = {}
from_shapes = detection.detect_unet_config


def with_heads_of_the_width(*arguments, **keywords):
    config = from_shapes(*arguments, **keywords)
    if config and config.get("image_model") == "flux":
        config["num_heads"] = config["hidden_size"] // sum(config["axes_dim"])
    return config


detection.detect_unet_config = with_heads_of_the_width
