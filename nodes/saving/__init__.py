"""What Krea Save writes into a file: the workflow, the receipt, the sign that it was made by AI. Without torch and ComfyUI."""
