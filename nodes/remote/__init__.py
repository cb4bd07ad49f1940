"""Between ComfyUI and `providers/`: tensors and files, widgets and requests, the queue and the jobs, the page and the keys.

What is here knows ComfyUI and no provider; what is in `providers/` knows the providers and not ComfyUI.
"""
