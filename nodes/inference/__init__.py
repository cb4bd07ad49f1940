"""Local FLUX.1 Krea [dev]: torch and comfy; never comfy_api, never a node, never the network."""
