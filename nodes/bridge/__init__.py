"""Between ComfyUI and the jobs: tensors and files, widgets and requests, the running queue, the page's routes."""
