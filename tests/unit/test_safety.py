"""The detector, the verdicts and the redaction. What a detector calls unsafe here is brightness: see tiny_detector."""

import hashlib
import json
import math
import pickle
import tempfile
from pathlib import Path

import pytest
import tiny_detector
import torch
from flux_krea.nodes.safety import detector, judging, pictures, vit
from flux_krea.nodes.safety.detector import DetectorRefused, Scored
from flux_krea.nodes.safety.pictures import SafetyError
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

DARK, BRIGHT = 0.2, 0.9


def greys(*values: float, channels: int = 3, size: int = 24) -> torch.Tensor:
    return torch.stack([torch.full((size, size, channels), value) for value in values])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_detector.write(tmp_path_factory.mktemp("detectors") / "tiny")


@pytest.fixture(scope="module")
def tiny(folder) -> detector.Detector:
    return detector.load(folder, "tiny")


def verdicts(tiny, images, threshold=0.5, provider=None, scan=detector.WHOLE, chunk=detector.CHUNK):
    return judging.judge(images, tiny.score(images, scan, chunk), threshold, provider)


def flags(*arguments, **options) -> list[bool]:
    return [verdict.flagged for verdict in verdicts(*arguments, **options)]


# The detector answers what its weights say


def test_scores_are_those_of_the_closed_form(tiny):
    values = [0.0, 0.1, 0.4, 0.5, 0.7, 1.0]
    scores = [answer.score for answer in tiny.score(greys(*values))]
    grey_as_bytes = [round(value * 255) / 255 for value in values]
    assert scores == pytest.approx([tiny_detector.unsafe_probability(value) for value in grey_as_bytes], abs=1e-6)


def test_a_full_size_vit_equals_transformers():
    import transformers  # takes seconds: only where it is compared with

    torch.manual_seed(0)
    labels = {"id2label": {0: "normal", 1: "nsfw"}, "label2id": {"normal": 0, "nsfw": 1}}
    reference = transformers.ViTForImageClassification(transformers.ViTConfig(**labels)).eval()
    processor = getattr(transformers, "ViTImageProcessorPil", transformers.ViTImageProcessor)()
    with tempfile.TemporaryDirectory() as place:
        reference.save_pretrained(place)
        processor.save_pretrained(place)
        ours = detector.load(Path(place), "random ViT-B/16")
    images = (torch.rand(3, 190, 333, 3) * 255).to(torch.uint8).numpy()
    expected = processor(images=list(images), return_tensors="pt")["pixel_values"]
    inputs = torch.stack([ours.description.preprocessing(image) for image in images])
    assert torch.equal(inputs, expected)
    with torch.inference_mode():
        assert (ours.model(inputs) - reference(inputs).logits).abs().max() <= 1e-5


def timm_tensors(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A transformers state, spelled and fused as timm does."""
    renamed = {
        "vit.embeddings.cls_token": "cls_token",
        "vit.embeddings.position_embeddings": "pos_embed",
        "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
        "vit.layernorm": "norm",
        "classifier": "head",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "vit.encoder.layer": "blocks",
    }
    ours = {}
    for name, tensor in theirs.items():
        if ".query." in name:
            fused = [theirs[name.replace("query", part)] for part in ("query", "key", "value")]
            name, tensor = name.replace("attention.attention.query", "attn.qkv"), torch.cat(fused)
        if ".key." in name or ".value." in name:
            continue
        for old, new in renamed.items():
            name = name.replace(old, new)
        ours[name] = tensor
    return ours


def write_timm(folder: Path, tensors: dict, **changes) -> Path:
    pretrained = {"input_size": [3, 384, 384], "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {
        "architecture": "vit_tiny_patch16_384",
        "label_names": ["NSFW", "SFW"],
        "global_pool": "token",
        "pretrained_cfg": {**pretrained, "crop_pct": 0.9, "crop_mode": "center"},
        **changes,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def vit_tiny() -> tuple[vit.Shape, dict[str, torch.Tensor]]:
    """Marqo's shape with random weights, in transformers' names."""
    torch.manual_seed(1)
    shape = vit.Shape(image=384, patch=16, width=192, depth=12, heads=3, mlp=768, labels=2, epsilon=1e-6)
    model = vit.ViT(shape)
    state = {}
    for name, tensor in model.state_dict().items():
        targets = vit.transformers_layout(name)
        for target in targets:
            state[target] = torch.randn(len(tensor) // len(targets), *tensor.shape[1:]) * 0.05
    return shape, state


def test_timm_layout_and_transformers_layout_are_the_same_model(tmp_path, vit_tiny):
    shape, theirs = vit_tiny
    marqo = detector.load(write_timm(tmp_path / "marqo", timm_tensors(theirs)), "marqo")
    assert marqo.description.shape == shape
    inputs = torch.randn(1, 3, 384, 384)
    with torch.inference_mode():
        assert torch.equal(marqo.model(inputs), vit.build(shape, vit.transformers_layout, theirs)(inputs))
    assert marqo.description.unsafe == [0], "Marqo's first label is the unsafe one"


def test_the_edges_of_a_wide_picture_count(tiny):
    dark = torch.zeros(1, 32, 128, 3)
    bright_edge = dark.clone()
    bright_edge[:, :, -26:] = 1
    assert tiny.score(bright_edge)[0].score > tiny.score(dark)[0].score + 0.01


def test_tiles_find_what_the_whole_picture_dilutes(tiny):
    image = torch.zeros(1, 100, 100, 3)
    image[:, :55, :55] = 1
    whole, tiles = (tiny.score(image, scan)[0].score for scan in detector.SCANS)
    assert whole < 0.5 < tiles


@given(height=st.integers(1, 40), width=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_tiles_cover_every_pixel(height, width):
    pixels = torch.arange(height * width).view(height, width, 1).expand(-1, -1, 3).numpy()
    whole, *tiles = detector._views(pixels, detector.TILES)
    assert len(tiles) == 4
    assert {int(value) for tile in tiles for value in tile[..., 0].ravel()} == set(range(height * width))


# Strict loading


def without(name):
    return lambda tensors: tensors.pop(name)


def renamed(old, new):
    return lambda tensors: tensors.update({new: tensors.pop(old)})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without("classifier.weight"), "1 missing (classifier.weight)"),
        (renamed("vit.layernorm.weight", "vit.norm.weight"), "missing (vit.layernorm.weight), 1 unexpected (vit.norm"),
        (lambda tensors: tensors.update({"vit.pooler.dense.weight": torch.zeros(4, 4)}), "1 unexpected (vit.pooler"),
        (lambda tensors: tensors.update({"classifier.weight": torch.zeros(3, 4)}), "size mismatch"),
        (lambda tensors: tensors.clear(), "24 missing"),
    ],
    ids=["no head", "renamed", "too many", "other shape", "empty"],
)
def test_weights_that_do_not_fit_exactly_are_refused(tmp_path, spoil, sentence):
    tensors = tiny_detector.weights()
    spoil(tensors)
    broken = tiny_detector.write(tmp_path / "broken", tensors)
    with pytest.raises(DetectorRefused) as refused:
        detector.load(broken, "broken")
    assert sentence in str(refused.value)
    assert "https://huggingface.co/Falconsai/nsfw_image_detection" in str(refused.value)
    assert "343 MB" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "siglip"}, "'siglip'"),
        ({"model_type": None}, "None"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"qkv_bias": False}, "qkv_bias"),
        ({"problem_type": "multi_label_classification"}, "problem_type"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"image_size": "16"}, "a size"),
        ({"id2label": None}, "cannot be read"),
        ({"id2label": {"1": "normal", "2": "nsfw"}}, "cannot be read"),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, "not guessed"),
        ({"id2label": {"0": "normal", "1": "nsfw", "2": "suggestive"}}, "not guessed"),
        ({"id2label": {"0": "normal", "1": "sfw"}}, "do not tell safe from unsafe"),
        ({"id2label": {"0": "porn", "1": "nsfw"}}, "do not tell safe from unsafe"),
        ({"id2label": {"0": "nsfw"}}, "do not tell safe from unsafe"),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(tmp_path, change, sentence):
    broken = tiny_detector.write(tmp_path / "broken", configuration=tiny_detector.config(**change))
    with pytest.raises(DetectorRefused, match=sentence):
        detector.describe(broken, "broken")


@pytest.mark.parametrize(
    "change",
    [
        {"resample": 5},
        {"resample": None},
        {"do_center_crop": True},
        {"do_resize": False},
        {"do_normalize": False},
        {"rescale_factor": 1.0},
        {"size": {"shortest_edge": 16}},
        {"size": 32},
        {"image_mean": [0.5]},
        {"image_std": [0.5, 0.5, 0.0]},
        {"image_mean": [math.nan, 0.5, 0.5]},
    ],
    ids=str,
)
def test_preprocessing_that_is_not_understood_or_crops_is_refused(tmp_path, change):
    broken = tiny_detector.write(tmp_path / "broken", preprocessing=tiny_detector.preprocessor(**change))
    with pytest.raises(DetectorRefused, match="not supported"):
        detector.describe(broken, "broken")


@pytest.mark.parametrize(
    "change",
    [{"architecture": "eva02_base_patch14_448"}, {"global_pool": "avg"}, {"model_args": {"reg_tokens": 4}}],
    ids=str,
)
def test_a_timm_model_of_another_kind_is_refused(tmp_path, vit_tiny, change):
    with pytest.raises(DetectorRefused):
        detector.load(write_timm(tmp_path / "other", timm_tensors(vit_tiny[1]), **change), "other")


@pytest.mark.parametrize("gone", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, gone):
    broken = tiny_detector.write(tmp_path / "broken")
    (broken / gone).unlink()
    with pytest.raises(DetectorRefused, match=gone):
        detector.load(broken, "broken")


def test_a_pickle_is_refused_and_never_opened(tmp_path):
    broken = tiny_detector.write(tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    proof = tmp_path / "a pickle ran"
    (broken / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(proof)))
    with pytest.raises(DetectorRefused, match=r"only pytorch_model\.bin: pickle"):
        detector.load(broken, "broken")
    (broken / "pytorch_model.bin").rename(broken / "model.safetensors")
    with pytest.raises(DetectorRefused):
        detector.load(broken, "broken")
    assert not proof.exists()


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_refusal_names_the_files_of_the_detector_that_was_meant():
    assert "config.json, model.safetensors (22 MB) from https://huggingface.co/Marqo/" in str(
        DetectorRefused("marqo_nsfw_384", "there is no model.safetensors")
    )


def test_a_lone_weights_file_is_refused(tmp_path):
    save_file(tiny_detector.weights(), tmp_path / "model.safetensors")
    with pytest.raises(DetectorRefused, match=r"no config\.json"):
        detector.load(tmp_path, "lone")


# Bounds: a few thousand hostile bytes must not cost seconds


DEEP = 10**400
HUGE = [
    ({"num_hidden_layers": 65_536}, "depth (at most 48) = 65536"),
    ({"hidden_size": 1 << 40}, "width (at most 2048)"),
    ({"intermediate_size": 1 << 16}, "mlp (at most 8192)"),
    ({"image_size": 65_536, "patch_size": 1}, "image (at most 1024) = 65536"),
    ({"patch_size": 0}, "patch (at most 64) = 0"),
    ({"num_hidden_layers": -1}, "depth (at most 48) = -1"),
    ({"image_size": 1024, "patch_size": 8}, "at most 4096 patches"),
    ({"num_hidden_layers": DEEP}, "depth (at most 48) = 1000"),
    ({"layer_norm_eps": DEEP}, "OverflowError"),
    ({"layer_norm_eps": math.nan}, "epsilon"),
    ({"id2label": {str(index): "nsfw" for index in range(20_000)}}, "20,000 labels"),
    ({"id2label": {"0": ["normal"], "1": "nsfw"}}, "cannot be read"),
    ({"padding": "x" * (2 << 20)}, "config.json is larger than 1,048,576 bytes"),
]


@pytest.mark.parametrize(("change", "sentence"), HUGE, ids=[str(next(iter(change))) for change, _ in HUGE])
def test_a_configuration_beyond_every_known_network_is_refused_before_one_is_built(
    tmp_path, monkeypatch, change, sentence
):
    configuration = tiny_detector.config(**change)
    if "image_size" in change:
        image = change["image_size"]
        preprocessing = tiny_detector.preprocessor(size={"height": image, "width": image})
    else:
        preprocessing = None
    broken = tiny_detector.write(tmp_path / "broken", configuration=configuration, preprocessing=preprocessing)
    monkeypatch.setattr(vit, "ViT", None)  # building it is an error here
    with pytest.raises(DetectorRefused) as refused:
        detector.describe(broken, "broken")
    assert sentence in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_a_configuration_nested_without_end_is_refused(tmp_path, file):
    broken = tiny_detector.write(tmp_path / "broken")
    (broken / file).write_text("[" * 100_000)
    with pytest.raises(DetectorRefused, match=f"{file} is not JSON"):
        detector.describe(broken, "broken")


def test_a_header_of_99_megabytes_is_never_parsed(tmp_path, monkeypatch):
    broken = tiny_detector.write(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((99_000_000).to_bytes(8, "little") + b"{" + b" " * 1000)
    monkeypatch.setattr(detector.safetensors, "safe_open", None)
    with pytest.raises(DetectorRefused, match="header of model.safetensors says that it has 99,000,000 bytes"):
        detector.describe(broken, "broken")


def test_a_weights_file_larger_than_its_network_is_never_read(tmp_path, monkeypatch):
    broken = tiny_detector.write(tmp_path / "broken")
    with (broken / "model.safetensors").open("r+b") as file:
        file.truncate(3 << 30)  # sparse
    monkeypatch.setattr(detector.safetensors, "safe_open", None)
    with pytest.raises(DetectorRefused, match="3,221,225,472 bytes, too many for the"):
        detector.describe(broken, "broken")


def test_a_file_swapped_after_it_was_inspected_is_refused_unread(tmp_path, monkeypatch):
    swapped = tiny_detector.write(tmp_path / "swapped")
    description = detector.describe(swapped, "swapped")
    monkeypatch.setattr(detector, "describe", lambda folder, name: description)
    with (swapped / "model.safetensors").open("r+b") as file:
        file.truncate(3 << 30)
    with pytest.raises(DetectorRefused, match="too many for the"):
        detector.load(swapped, "swapped")


def test_the_detectors_hash_covers_its_configuration_and_preprocessing(tmp_path):
    def hashes(name, **files):
        loaded = detector.load(tiny_detector.write(tmp_path / name, **files), name)
        return loaded.weights_sha256, loaded.sha256

    plain = hashes("plain")
    other_labels = hashes("labels", configuration=tiny_detector.config(labels=("nsfw", "normal")))
    other_mean = hashes("mean", preprocessing=tiny_detector.preprocessor(image_mean=[0.4] * 3))
    assert plain[0] == other_labels[0] == other_mean[0], "the weights are the same"
    assert len({plain[1], other_labels[1], other_mean[1]}) == 3
    files = ("config.json", "preprocessor_config.json", "model.safetensors")
    whole = b"".join((tmp_path / "plain" / file).read_bytes() for file in files)
    assert plain[1] == hashlib.sha256(whole).hexdigest()


def test_the_order_of_labels_on_disk_is_followed(tmp_path, tiny):
    labels = ("nsfw", "normal")
    swapped = tiny_detector.write(
        tmp_path / "swapped", tiny_detector.weights(labels), tiny_detector.config(labels=labels)
    )
    images = greys(0.1, 0.6, 0.9)
    scores = [answer.score for answer in detector.load(swapped, "swapped").score(images)]
    assert scores == pytest.approx([answer.score for answer in tiny.score(images)], abs=1e-6)


def test_unsafe_labels_add_up(tmp_path):
    labels = ("neutral", "porn", "nsfw")
    several = detector.load(
        tiny_detector.write(tmp_path / "several", tiny_detector.weights(labels), tiny_detector.config(labels=labels)),
        "several",
    )
    (answer,) = several.score(greys(0.7))
    assert answer.score == pytest.approx(answer.labels["porn"] + answer.labels["nsfw"], abs=1e-6)


def test_the_fingerprint_follows_every_file_and_tells_no_path(tmp_path):
    watched = tiny_detector.write(tmp_path / "watched")
    seen = {detector.fingerprint(watched)}
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (watched / name).write_bytes((watched / name).read_bytes() + b" ")
        seen.add(detector.fingerprint(watched))
    assert len(seen) == 4
    assert not any(tmp_path.name in fingerprint for fingerprint in seen)
    (watched / "model.safetensors").unlink()
    with pytest.raises(OSError):
        detector.fingerprint(watched)


def test_weights_in_memory_do_not_follow_the_file(tmp_path):
    changing = tiny_detector.write(tmp_path / "changing")
    loaded = detector.load(changing, "changing")
    before = loaded.score(greys(BRIGHT))
    (changing / "model.safetensors").write_bytes(bytes((changing / "model.safetensors").stat().st_size))
    assert loaded.score(greys(BRIGHT)) == before


# Verdicts


def test_an_image_passes_only_below_the_threshold():
    images = greys(DARK)
    for score, flagged in ((0.49, False), (0.5, True), (0.51, True), (math.nan, True), (math.inf, True)):
        (verdict,) = judging.judge(images, [Scored(score, {"normal": 1 - score, "nsfw": score})], 0.5)
        assert verdict.flagged is flagged, score


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, math.nan, math.inf])
def test_a_threshold_outside_its_range_is_an_error(threshold):
    with pytest.raises(SafetyError, match="threshold"):
        judging.judge(greys(DARK), [Scored(0.0, {})], threshold)


@pytest.mark.parametrize("scan", detector.SCANS)
def test_weights_that_answer_with_nan_pass_nothing(tmp_path, scan):
    tensors = tiny_detector.weights()
    tensors["classifier.bias"][1] = math.nan
    broken = detector.load(tiny_detector.write(tmp_path / "nan", tensors), "nan")
    judged = verdicts(broken, greys(DARK, BRIGHT), scan=scan)
    assert [(verdict.flagged, verdict.score, verdict.reasons) for verdict in judged] == [
        (True, None, ("score_not_a_number",))
    ] * 2
    json.loads(judging.report(judged, judging.BLACK))


def test_one_view_that_fails_is_not_outvoted(tiny):
    answer = tiny._highest(torch.tensor([[0.9, 0.1], [math.nan, math.nan], [0.1, 0.9]]))
    assert math.isnan(answer.score)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("channel", [0, 3])
def test_one_pixel_that_is_not_a_number_flags_its_image(tiny, value, channel):
    images = greys(DARK, DARK, DARK, channels=4)
    images[1, 5, 7, channel] = value
    judged = verdicts(tiny, images)
    assert [verdict.flagged for verdict in judged] == [False, True, False]
    assert "non_finite_pixels" in judged[1].reasons
    for action in (judging.BLACK, judging.BLUR):
        assert torch.isfinite(judging.release(images, [False, True, False], action)).all()


def test_counts_that_differ_are_errors(tiny):
    images = greys(DARK, BRIGHT)
    scored = tiny.score(images)
    for arguments in ((scored[:1], 0.5), (scored + scored, 0.5), (scored, 0.5, [False]), (scored, 0.5, [])):
        with pytest.raises(SafetyError, match="2 images, but"):
            judging.judge(images, *arguments)
    with pytest.raises(SafetyError, match="1 flags"):
        judging.release(images, [False], judging.BLACK)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (1, 0, 8, 3), (8, 8, 3), (1, 8, 8, 1), (1, 3, 8, 8)])
def test_what_is_not_a_batch_of_pictures_is_an_error(shape):
    with pytest.raises(SafetyError):
        pictures.check_images(torch.zeros(shape))


def test_alpha_hides_nothing(tiny):
    transparent = greys(BRIGHT, channels=4)
    transparent[..., 3] = 0
    (verdict,) = verdicts(tiny, transparent)
    assert verdict.flagged
    for action in (judging.BLACK, judging.BLUR):
        assert (judging.release(transparent, [True], action)[..., 3] == 1).all()


# What leaves is what was scored


def test_a_picture_below_black_does_not_pass_and_come_back(tiny):
    """Drawn around -10 it is scored as black; brought back by adding 10 it would be the bright picture."""
    bright = greys(BRIGHT)
    assert flags(tiny, bright) == [True]
    hidden = bright - 10
    assert flags(tiny, hidden) == [False]
    released = judging.release(hidden, [False], judging.BLACK)
    assert not released.any()
    assert flags(tiny, (released + 10).clamp(0, 1)) == [True], "adding 10 to black is white, and no picture any more"


def test_a_picture_drawn_in_alpha_is_scored(tiny):
    image = greys(DARK, channels=4)
    for alpha, flagged in ((0.0, False), (1.0, False)):
        image[..., 3] = alpha  # the same everywhere: no picture
        assert flags(tiny, image) == [flagged]
    image[..., 3] = BRIGHT
    image[..., :2, 3] = 0.1
    assert flags(tiny, torch.cat([greys(DARK, channels=4), image])) == [False, True]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64], ids=str)
def test_images_that_are_not_floating_point_numbers_are_refused(tiny, dtype):
    images = (greys(BRIGHT) * 255).to(dtype)
    for work in (tiny.score, lambda images: judging.release(images, [False], judging.BLACK)):
        with pytest.raises(SafetyError, match="floating-point numbers from 0 to 1, got torch"):
            work(images)


extreme = st.sampled_from(
    [-math.inf, -1e30, -10.0, -0.5, -1e-9, 0.0, 0.3, 0.999, 1.0, 1.5, 11.0, 3e38, math.inf, math.nan]
)


@given(
    values=st.lists(extreme, min_size=1, max_size=4),
    spot=extreme,
    channels=st.sampled_from([3, 4]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    action=st.sampled_from([action for action in judging.ACTIONS if action != judging.ERROR]),
    scan=st.sampled_from(detector.SCANS),
)
@settings(max_examples=60, deadline=None)
def test_whatever_comes_in_what_leaves_scores_the_same_and_lies_in_range(
    tiny, values, spot, channels, dtype, action, scan
):
    images = greys(*values, channels=channels).to(dtype)
    images[0, 3:9, 4:11] = spot
    judged = verdicts(tiny, images, scan=scan)
    released = judging.release(images, [verdict.flagged for verdict in judged], action)
    returned = json.loads(judging.report(judged, action))["returned"]
    assert len(returned) == (0 if released is None else len(released))
    if released is None:
        return
    assert released.dtype == torch.float32 and bool(((released >= 0) & (released <= 1)).all())
    again = tiny.score(released, scan)
    for index, answer in zip(returned, again, strict=True):
        finite = torch.isfinite(images[index].float()).all()
        assert judged[index].flagged or finite
        if not judged[index].flagged or action == judging.LABEL_ONLY:
            assert answer.score == pytest.approx(judged[index].score, abs=1e-6)
            assert torch.equal(released[returned.index(index)], pictures.visible(images)[index])


# What a provider says


def test_a_provider_can_only_add_flags(tiny):
    judged = verdicts(tiny, greys(DARK, DARK, DARK, BRIGHT), provider=[True, False, None, False])
    assert [(verdict.flagged, verdict.reasons) for verdict in judged] == [
        (True, ("provider",)),
        (False, ()),
        (True, ("provider_unknown",)),
        (True, ("score",)),
    ]


def test_a_provider_report_is_read():
    text = json.dumps({"provider": "fal", "has_nsfw_concepts": [True, False, None]})
    assert judging.provider_flags(text, 3) == [True, False, None]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "7", "{}", '{"has_nsfw_concepts": null}', '{"has_nsfw_concepts": [0, 1]}']
    + [
        '{"has_nsfw_concepts": ["false", "false"]}',
        '{"has_nsfw_concepts": [false, false, false]}',
        '{"has_nsfw_concepts": [false]}',
        '{"has_nsfw_concepts": []}',
    ],
)
def test_a_provider_report_that_does_not_fit_is_an_error(text):
    with pytest.raises(SafetyError, match="provider_report"):
        judging.provider_flags(text, 2)


# Redaction


def test_black_is_black_and_the_others_are_left_alone():
    images = torch.rand(3, 9, 9, 3)
    released = judging.release(images, [False, True, False], judging.BLACK)
    assert not released[1].any()
    assert torch.equal(released[[0, 2]], images[[0, 2]])


@pytest.mark.parametrize("size", [(1024, 700), (97, 300), (40, 40)])
def test_a_blurred_picture_has_at_most_twelve_cells_a_side(size):
    images = 0.4 + 0.2 * torch.rand(1, *size, 3)
    blurred = judging.release(images, [True], judging.BLUR).double()
    assert torch.linalg.matrix_rank(blurred[0, ..., 0], rtol=1e-5) <= min(12, max(size) // 8)
    assert blurred.shape == images.shape


@given(side=st.integers(2, 15))
@settings(max_examples=10, deadline=None)
def test_a_thumbnail_is_blurred_to_one_colour(side):
    blurred = judging.release(torch.rand(1, side, side, 3), [True], judging.BLUR)
    assert torch.allclose(blurred, blurred[:, :1, :1].expand_as(blurred), atol=1e-6)


def test_drop_keeps_the_rest_and_nothing_when_nothing_is_left():
    images = torch.rand(3, 4, 4, 3)
    assert torch.equal(judging.release(images, [True, False, True], judging.DROP), images[1:2])
    assert judging.release(images, [True] * 3, judging.DROP) is None


def test_block_releases_nothing_if_one_is_flagged():
    assert judging.release(torch.rand(2, 4, 4, 3), [False, True], judging.BLOCK) is None


def test_error_names_the_flagged_images():
    with pytest.raises(SafetyError, match="flagged image 2, 3 of 3"):
        judging.release(torch.rand(3, 4, 4, 3), [False, True, True], judging.ERROR)


def test_an_action_nobody_knows_is_an_error():
    for flagged in (True, False):
        with pytest.raises(SafetyError, match="on_flagged"):
            judging.release(torch.rand(1, 4, 4, 3), [flagged], "pass")


def test_blank_is_only_a_remark(tiny):
    judged = verdicts(tiny, greys(0.0, 0.1))
    assert [(verdict.blank, verdict.flagged) for verdict in judged] == [(True, False), (False, False)]


# Properties

brightness = st.lists(st.integers(0, 255).map(lambda value: value / 255), min_size=1, max_size=6)
thresholds = st.floats(0.01, 1.0)
actions = st.sampled_from(judging.ACTIONS)


@given(values=brightness, data=st.data())
@settings(max_examples=30, deadline=None)
def test_permuting_the_batch_permutes_the_flags(tiny, values, data):
    order = data.draw(st.permutations(range(len(values))))
    straight = flags(tiny, greys(*values))
    assert flags(tiny, greys(*values)[list(order)]) == [straight[index] for index in order]


@given(values=brightness, chunk=st.integers(1, 9), scan=st.sampled_from(detector.SCANS))
@settings(max_examples=30, deadline=None)
def test_the_chunk_size_changes_nothing(tiny, values, chunk, scan):
    images = greys(*values)
    one, many = (tiny.score(images, scan, size) for size in (1, chunk))
    assert [answer.score for answer in many] == pytest.approx([answer.score for answer in one], abs=1e-6)
    assert flags(tiny, images, 0.7, scan=scan, chunk=chunk) == flags(tiny, images, 0.7, scan=scan, chunk=1)


@given(values=brightness, low=thresholds, high=thresholds)
@settings(max_examples=50, deadline=None)
def test_raising_the_threshold_never_flags_more(tiny, values, low, high):
    low, high = sorted((low, high))
    scored = tiny.score(images := greys(*values))
    fewer, more = (judging.judge(images, scored, threshold) for threshold in (high, low))
    assert all(loose.flagged <= strict.flagged for loose, strict in zip(fewer, more, strict=True))


@given(values=brightness, action=actions, channels=st.sampled_from([3, 4]), scan=st.sampled_from(detector.SCANS))
@settings(max_examples=40, deadline=None)
def test_the_input_is_never_written_to_nor_handed_out(tiny, values, action, channels, scan):
    images = greys(*values, channels=channels)
    before = images.clone()
    flagged = flags(tiny, images, scan=scan)
    if action == judging.ERROR and any(flagged):
        with pytest.raises(SafetyError):
            judging.release(images, flagged, action)
    else:
        released = judging.release(images, flagged, action)
        assert released is None or released.data_ptr() != images.data_ptr()
        if released is not None:
            released.zero_()
    assert torch.equal(images, before)


@given(values=brightness, action=actions, threshold=thresholds, data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_counts_of_the_report_add_up(tiny, values, action, threshold, data):
    images = greys(*values)
    states = st.none() | st.lists(st.sampled_from([True, False, None]), min_size=len(values), max_size=len(values))
    judged = verdicts(tiny, images, threshold, data.draw(states))
    report = json.loads(judging.report(judged, action, detector="tiny"))
    assert report["images"] == len(values) == report["flagged"] + report["passed"] == len(report["per_image"])
    assert report["flagged"] == sum(report["has_nsfw_concepts"])
    assert all(image["flagged"] == bool(image["reasons"]) for image in report["per_image"])
    if action != judging.ERROR:
        released = judging.release(images, report["has_nsfw_concepts"], action)
        assert len(report["returned"]) == (0 if released is None else len(released))


@given(values=brightness, threshold=thresholds)
@settings(max_examples=40, deadline=None)
def test_no_flagged_pixel_leaves_unless_it_was_asked_for(tiny, values, threshold):
    images = greys(*values) + 0.05 * torch.rand(len(values), 24, 24, 3)
    flagged = flags(tiny, images, threshold)
    for action in (judging.BLACK, judging.BLUR, judging.DROP, judging.BLOCK):
        released = judging.release(images, flagged, action)
        for index in [index for index, flag in enumerate(flagged) if flag]:
            assert released is None or not any(torch.equal(image, images[index]) for image in released)
