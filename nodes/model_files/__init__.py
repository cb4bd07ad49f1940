"""What is in a weight file: its header, what model that is, a sentence for what is wrong, and loading through ComfyUI."""
