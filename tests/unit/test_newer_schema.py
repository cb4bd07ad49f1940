"""What a newer ComfyUI is told about a node, and an older one is not."""

from dataclasses import dataclass, field

from flux_krea.nodes.bridge.newer_schema import found_by, if_known


@dataclass
class OldSchema:
    node_id: str


@dataclass
class NewSchema(OldSchema):
    search_aliases: list[str] = field(default_factory=list)
    essentials_category: str | None = None


class OldInput:
    def __init__(self, id):
        self.id = id


class NewInput:
    def __init__(self, id, advanced=None):
        self.id, self.advanced = id, advanced


def test_a_newer_schema_gets_the_words_and_the_shelf_and_an_older_one_neither():
    words = "flux api, fal"
    new = NewSchema("FluxKreaAPI", **found_by(NewSchema, words, shelf="Image Generation"))
    assert (new.search_aliases, new.essentials_category) == (["flux api", "fal"], "Image Generation")
    assert OldSchema("FluxKreaAPI", **found_by(OldSchema, words, shelf="Image Generation")) == OldSchema("FluxKreaAPI")


def test_an_input_is_advanced_where_inputs_can_be():
    assert NewInput("steps", **if_known(NewInput, advanced=True)).advanced is True
    assert if_known(OldInput, advanced=True) == {}
