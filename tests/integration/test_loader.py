"""Krea Loader in a real ComfyUI: what it loads again, what it refuses, and that ComfyUI survives it."""

import os
import shutil

import miniature
import pytest
from comfyui import ComfyUIError
from graphs import Graph


@pytest.fixture
def broken(models):
    """Files to break: each is written under models/<folder>/broken/ and taken away afterwards."""
    made = []

    def write(folder: str, name: str, layout=None, content: bytes | None = None, cut: int = 0, contents=None):
        path = models / folder / "broken" / name
        path.parent.mkdir(exist_ok=True)
        made.append(path.parent)
        if layout is not None:
            miniature.write_header_only(path, layout, contents=contents)
        if content is not None:
            path.write_bytes(content)
        if cut:
            os.truncate(path, path.stat().st_size - cut)
        return f"broken/{name}"

    yield write
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


def without(layout: dict, key: str) -> dict:
    return {name: tensor for name, tensor in layout.items() if name != key}


FLUX = miniature.flux_layout(1, 1, "F8_E4M3")
REFUSED = {
    "truncated": ("unet_name", {"layout": FLUX, "cut": 1000}, "cut off: .* bytes .*download it again"),
    "web page": ("unet_name", {"content": b"<!DOCTYPE html><html>Access denied</html>"}, "a web page, not a model"),
    "LFS pointer": (
        "unet_name",
        {"content": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 23802932552\n"},
        "a Git LFS pointer.*23,802,932,552",
    ),
    "pickle": ("unet_name", {"content": b"PK\x03\x04" + b"archive/data.pkl" + b"\0" * 600}, "a PyTorch pickle"),
    "schnell": ("unet_name", {"layout": miniature.flux_layout(1, 1, guidance=False)}, "schnell.*no guidance"),
    "Fill": ("unet_name", {"layout": miniature.flux_layout(1, 1, channels=384)}, "FLUX.1 Fill"),
    "Control": ("unet_name", {"layout": miniature.flux_layout(1, 1, channels=128)}, "FLUX.1 Control"),
    "one tensor missing": (
        "unet_name",
        {"layout": without(FLUX, "single_blocks.0.linear2.weight")},
        "1 tensor is missing, first single_blocks.0.linear2.weight",
    ),
    "text encoder as model": ("unet_name", {"layout": miniature.t5_layout(2)}, "T5-XXL.*models/text_encoders"),
    "4-channel VAE": ("vae_name", {"layout": miniature.vae_layout(channels=4)}, "4 latent channels"),
    "model as VAE": ("vae_name", {"layout": FLUX}, "FLUX.1 dev or Krea.*models/diffusion_models"),
    "VAE as encoder": ("clip_name1", {"layout": miniature.vae_layout()}, "CLIP-L or T5-XXL"),
}
FOLDERS = {"unet_name": "diffusion_models", "vae_name": "vae", "clip_name1": "text_encoders"}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_file_is_refused_in_a_sentence_before_anything_is_loaded(comfyui, broken, case):
    slot, recipe, sentence = REFUSED[case]
    name = broken(FOLDERS[slot], "file.safetensors", **recipe)
    with pytest.raises(ComfyUIError, match=sentence) as refused:
        comfyui.run(preview_of_loading(**{slot: name}))
    assert "file.safetensors" in str(refused.value)


def preview_of_loading(**changes) -> Graph:
    graph = Graph()
    loader = graph.loader(**changes)
    for slot in range(3):
        graph.add("ProbeObject", thing=[loader, slot], again=0)
    return graph


def test_an_absent_file_is_named_with_its_folder_and_where_to_get_it(comfyui):
    with pytest.raises(ComfyUIError) as refused:
        comfyui.run(preview_of_loading(clip_name2="t5xxl_fp8_e4m3fn_scaled.safetensors"))
    sentence = str(refused.value)
    assert "t5xxl_fp8_e4m3fn_scaled.safetensors is not in models/text_encoders/" in sentence
    assert "https://huggingface.co/comfyanonymous/flux_text_encoders/" in sentence
    assert str(comfyui.base / "models" / "text_encoders") in sentence


def test_a_broken_link_is_refused_in_a_sentence(comfyui, models):
    link = models / "vae" / "gone.safetensors"
    link.symlink_to(models / "nowhere.safetensors")
    try:
        with pytest.raises(ComfyUIError, match=r"gone.safetensors: a broken link"):
            comfyui.run(preview_of_loading(vae_name="gone.safetensors"))
    finally:
        link.unlink()


@pytest.mark.parametrize("name", ["clip_l.safetensors", "t5xxl_fp16.safetensors"])
def test_the_same_encoder_twice_is_refused_in_a_sentence(comfyui, name):
    with pytest.raises(ComfyUIError, match=f"{name} and {name}: both are the .* text encoder"):
        comfyui.run(preview_of_loading(clip_name1=name, clip_name2=name))


def test_a_second_rounding_of_a_scaled_file_is_refused(comfyui):
    graph = preview_of_loading(unet_name="flux1-krea-dev_fp8_scaled.safetensors", weight_dtype="fp8_e4m3fn")
    with pytest.raises(ComfyUIError, match="already fp8_scaled.*set weight_dtype to default"):
        comfyui.run(graph)


QUANTISED = {
    "0.4.0": {"format": "float8_e4m3fn"},
    "0.8.0": {"format": "nvfp4"},
    "0.18.0": {"format": "mxfp8"},
    "0.27.0": {"format": "int8_tensorwise", "convrot": True},
    "0.28.0": {"format": "convrot_w4a4"},
    "0.31.0": {"format": "asym_w4a8_int8"},
}


@pytest.mark.parametrize("since", QUANTISED)
def test_a_quantised_file_is_refused_where_this_comfyui_would_leave_out_its_scales(comfyui, broken, since):
    running = comfyui.get("/system_stats").json()["system"]["comfyui_version"]
    layout, contents = miniature.quantised_flux_layout(1, 0, QUANTISED[since])
    name = broken("diffusion_models", "file.safetensors", layout=layout, contents=contents)
    graph = preview_of_loading(unet_name=name)
    if order(running) >= order(since):
        identity = graph.add("ProbeObject", thing=["1", 0], again=7)
        assert comfyui.run(graph)["outputs"][identity]["identity"]
    else:
        with pytest.raises(ComfyUIError, match=f"ComfyUI {since} or newer is needed, and this is {running}"):
            comfyui.run(graph)


def order(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_an_old_export_that_names_no_format_is_refused_in_a_sentence(comfyui, broken):
    layout, contents = miniature.quantised_flux_layout(1, 0, {"convrot": True})
    name = broken("diffusion_models", "old_export.safetensors", layout=layout, contents=contents)
    with pytest.raises(ComfyUIError, match="old export of quantised weights"):
        comfyui.run(preview_of_loading(unet_name=name))


def test_files_in_the_layouts_of_diffusers_and_openai_load_whole(comfyui, models):
    """ComfyUI converts them, and says in its log which weights it did not find."""
    names = {"unet_name": "diffusers/model.safetensors", "clip_name1": "diffusers/clip.safetensors"}
    unet = models / "diffusion_models" / names["unet_name"]
    clip = models / "text_encoders" / names["clip_name1"]
    before = len(comfyui.log())
    try:
        miniature.write_safetensors(unet, miniature.diffusers_flux_layout(1, 0, "F8_E4M3"))
        miniature.write_safetensors(clip, miniature.openai_clip_layout(2))
        graph = Graph()
        loader = graph.loader(**names)
        positive = graph.short_text([loader, 1], "a red fox")
        report = graph.sampler([loader, 0], positive, graph.size(64, 64), steps=1)
        seen = graph.add("ProbeCompare", a=report, b=report)
        assert comfyui.run(graph)["outputs"][seen]["spread"][0] > 0
    finally:
        shutil.rmtree(unet.parent)
        shutil.rmtree(clip.parent)
    log = comfyui.log()[before:]
    assert "model.safetensors: FLUX.1 dev or Krea, 1+0 blocks, fp8, 404.0 M parameters" in log
    assert "clip.safetensors: the CLIP-L text encoder, 2 layers" in log
    assert "missing" not in log


@pytest.fixture
def all_in_one(models):
    """Writes an all-in-one checkpoint of one block into models/checkpoints; it is taken away afterwards."""
    path = models / "checkpoints" / "flux1-krea-all.safetensors"
    path.parent.mkdir(exist_ok=True)

    def write(*parts: str) -> str:
        layouts = {
            "model.diffusion_model.": miniature.flux_layout(1, 0, "F8_E4M3"),
            "text_encoders.clip_l.transformer.": miniature.clip_l_layout(2),
            "text_encoders.t5xxl.transformer.": miniature.t5_layout(2, heads=2, feed_forward=128),
            "vae.": miniature.tiny_vae_layout(),
        }
        miniature.write_safetensors(
            path,
            {
                prefix + key: tensor
                for prefix in ("model.diffusion_model.", *parts)
                for key, tensor in layouts[prefix].items()
            },
        )
        return path.name

    yield write
    path.unlink(missing_ok=True)


def test_an_all_in_one_checkpoint_brings_its_own_encoders_and_vae(comfyui, all_in_one):
    name = all_in_one("text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer.", "vae.")
    options = comfyui.get("/object_info/FluxKreaLoader").json()["FluxKreaLoader"]["input"]["required"]["unet_name"]
    assert name in str(options)
    graph = Graph()
    absent = {"clip_name1": "none.safetensors", "clip_name2": "none.safetensors", "vae_name": "none.safetensors"}
    loader = graph.loader(unet_name=name, **absent)
    positive = graph.short_text([loader, 1], "a red fox")
    graph.picture(graph.sampler([loader, 0], positive, graph.size(64, 64), steps=1), [loader, 2])
    before = len(comfyui.log())
    (picture,) = comfyui.pictures(comfyui.run(graph))
    assert picture.stat().st_size > 1000
    log = comfyui.log()[before:]
    assert f"Krea Loader: {name}: the CLIP-L text encoder, 2 layers" in log
    assert "clip missing" not in log and "unet missing" not in log


def test_what_a_checkpoint_lacks_comes_from_the_files_chosen_beside_it(comfyui, all_in_one):
    name = all_in_one()
    model, clip, vae = identities(comfyui, again=8, unet_name=name)
    assert [clip, vae] == identities(comfyui, again=9)[1:]
    with pytest.raises(ComfyUIError, match="none.safetensors is not in models/vae/"):
        comfyui.run(preview_of_loading(unet_name=name, vae_name="none.safetensors"))


@pytest.fixture
def gguf(models):
    path = models / "diffusion_models" / "flux1-krea-dev.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    yield path.name
    path.unlink()


def test_a_gguf_file_is_loaded_by_comfyui_ggufs_own_node(comfyui, gguf):
    options = comfyui.get("/object_info/FluxKreaLoader").json()["FluxKreaLoader"]["input"]["required"]["unet_name"]
    assert gguf in str(options)
    model, clip, vae = identities(comfyui, again=10, unet_name=gguf)
    assert [clip, vae] == identities(comfyui, again=11)[1:]
    assert f"Krea Loader: {gguf}: a diffusion model, GGUF, 0.00 GB" in comfyui.log()
    with pytest.raises(ComfyUIError, match="a GGUF file has its own precision: set weight_dtype to default"):
        comfyui.run(preview_of_loading(unet_name=gguf, weight_dtype="fp8_e4m3fn"))


def test_a_gguf_text_encoder_is_sent_to_its_own_node(comfyui):
    with pytest.raises(ComfyUIError, match="t5.gguf: load a GGUF text encoder with the DualCLIPLoader .GGUF. node"):
        comfyui.run(preview_of_loading(clip_name1="t5.gguf"))


def test_without_comfyui_gguf_the_node_says_what_to_install(hasty):
    graph = Graph()
    model = graph.add("FluxKreaDiffusionModel", unet_name="flux1-krea-dev.gguf", weight_dtype="default")
    graph.add("ModelSave", model=[model, 0], filename_prefix="x")
    with pytest.raises(ComfyUIError, match="a GGUF file needs the pack ComfyUI-GGUF: install it"):
        hasty.run(graph)


def identities(comfyui, again: int, **changes) -> list[int]:
    graph = Graph()
    loader = graph.loader(**changes)
    probes = [graph.add("ProbeObject", thing=[loader, slot], again=again) for slot in range(3)]
    outputs = comfyui.run(graph)["outputs"]
    return [outputs[probe]["identity"][0] for probe in probes]


def test_unchanged_files_are_not_loaded_again_and_another_vae_reloads_the_vae_only(comfyui, models):
    miniature.write_safetensors(models / "vae" / "other.safetensors", miniature.tiny_vae_layout(), seed=5)
    first = identities(comfyui, again=1)
    assert identities(comfyui, again=2) == first
    model, clip, vae = identities(comfyui, again=3, vae_name="other.safetensors")
    assert [model, clip] == first[:2]
    assert vae != first[2]


def test_the_encoders_may_stand_in_either_order(comfyui):
    straight = identities(comfyui, again=4)
    swapped = identities(comfyui, again=5, clip_name1="t5xxl_fp16.safetensors", clip_name2="clip_l.safetensors")
    assert swapped == straight


def test_a_workflow_from_another_system_finds_its_files(comfyui, models):
    folder = models / "vae" / "flux"
    folder.mkdir(exist_ok=True)
    miniature.write_safetensors(folder / "nested.safetensors", miniature.tiny_vae_layout())
    for name in ("flux\\nested.safetensors", "flux/nested.safetensors", "elsewhere/nested.safetensors"):
        identities(comfyui, again=6, vae_name=name)


def test_a_full_picture_still_comes_after_all_of_this_and_the_log_says_what_was_loaded(comfyui):
    graph = Graph()
    loader = graph.loader()
    positive = graph.text([loader, 1], "a red fox")
    graph.picture(graph.sampler([loader, 0], positive, graph.size(64, 64)), [loader, 2])
    (picture,) = comfyui.pictures(comfyui.run(graph))
    assert picture.stat().st_size > 1000
    assert (
        "Krea Loader: flux1-krea-dev.safetensors: FLUX.1 dev or Krea, 1+1 blocks, fp8, 545.5 M parameters"
        in comfyui.log()
    )
