"""FLUX.1 Krea [dev] for ComfyUI. Start reading in nodes/."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """ComfyUI's door. Imports wait until it knocks, so that pytest and tools can import the pack without ComfyUI."""
    from comfy_api.latest import ComfyExtension

    from .nodes import node_classes
    from .nodes.bridge import routes

    routes.register()

    class FluxKrea(ComfyExtension):
        async def get_node_list(self):
            return node_classes()

    return FluxKrea()
