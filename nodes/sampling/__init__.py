"""FLUX.1 Krea [dev] on ComfyUI's engine: schedule, guidance, Redux, attention, acceleration. Never the network."""
