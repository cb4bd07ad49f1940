"""Krea Safety Check: nothing leaves that was not checked."""

from __future__ import annotations

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from .bridge.choices import check_choice
from .bridge.newer_schema import found_by
from .safety import detector, installed_detectors, judging, pictures
from .safety.detector import SCANS

UNSCORED = 1.0  # the score of an image that has none, so that a comparison downstream stops it too


class FluxKreaSafetyCheck(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        detectors = installed_detectors.names() or [detector.DEFAULT]
        return io.Schema(
            node_id="FluxKreaSafetyCheck",
            display_name="Krea Safety Check",
            category="FLUX Krea",
            description="Looks for sexually explicit pictures with a local detector and stops or redacts them. It does "
            "not recognise violence, persons, characters or trademarks; it misses some pictures and flags some "
            "harmless ones. Without a working detector nothing passes. Previews and files made before it go unchecked.",
            inputs=[
                io.Image.Input("image", tooltip="A batch of images; each gets its own verdict."),
                io.Combo.Input(
                    "detector",
                    options=detectors,
                    default=detectors[0],
                    tooltip="A folder in models/safety_checkers/ with the hub's files unchanged. "
                    f"{detector.how_to_install(detector.DEFAULT)}",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="An image passes only with a score below this. 0.5 is what fal and Replicate use, 0.85 is "
                    "Black Forest Labs' reference, which lets more through.",
                ),
                io.Combo.Input(
                    "on_flagged",
                    options=list(judging.ACTIONS),
                    default=judging.BLACK,
                    tooltip="black, blur: redact flagged images, keep the batch. drop: leave them out. block: if one "
                    "is flagged no image passes, the report does. error: stop the run. label_only: PASSES EVERYTHING, "
                    "only reports.",
                ),
                io.Combo.Input(
                    "scan",
                    options=list(SCANS),
                    default=detector.WHOLE,
                    tooltip="whole + tiles also looks at four overlapping parts: finds smaller things, takes five "
                    "times as long, flags more harmless images.",
                ),
                io.Combo.Input(
                    "device",
                    options=list(installed_detectors.DEVICES),
                    default=installed_detectors.AUTO,
                    tooltip="Where the detector runs. cpu needs no graphics memory and about half a second an image.",
                ),
                io.String.Input(
                    "provider_report",
                    optional=True,
                    force_input=True,
                    tooltip="API Krea's report. What the provider flagged, or did not check, is flagged here too; what "
                    "it passed is still checked.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="What on_flagged lets out."),
                io.Boolean.Output(display_name="any_flagged", tooltip="True if one image or more is flagged."),
                io.Boolean.Output(
                    display_name="has_nsfw_concepts",
                    is_output_list=True,
                    tooltip="One for each image that came in. A list: the node it is wired to runs once for each.",
                ),
                io.Float.Output(
                    display_name="scores",
                    is_output_list=True,
                    tooltip="Probability of an unsafe label for each image that came in; 1.0 without a valid score.",
                ),
                io.String.Output(display_name="report", tooltip="JSON: detector, threshold, counts, reasons by image."),
            ],
            **found_by(
                io.Schema,
                "nsfw, nsfw filter, nudity, censor, content filter, moderation, safety checker, falconsai",
                shelf="Image Tools",
            ),
        )

    @classmethod
    def validate_inputs(cls, detector):
        """Before anything is sampled. ComfyUI repeats the sentence for every input that is named here."""
        if detector is None:  # wired: known only in execute
            return True
        try:
            installed_detectors.check(detector)
        except ValueError as problem:
            return str(problem)
        return True

    @classmethod
    def fingerprint_inputs(cls, detector=None, **_):
        """A detector's files belong to the cache key; without them the node always runs, and refuses."""
        try:
            return installed_detectors.fingerprint(detector)
        except (ValueError, OSError):
            return float("nan")

    @classmethod
    def execute(cls, image, detector, threshold, on_flagged, scan, device, provider_report=None):
        check_choice("on_flagged", on_flagged, judging.ACTIONS, judging.SafetyError)
        check_choice("scan", scan, SCANS, judging.SafetyError)
        check_choice("device", device, installed_detectors.DEVICES, judging.SafetyError)
        pictures.check_images(image)
        provider = None if provider_report is None else judging.provider_flags(provider_report, len(image))
        checker, where = installed_detectors.ready(detector, device)
        verdicts = judging.judge(image, checker.score(image, scan, device=where), threshold, provider)
        flagged = [verdict.flagged for verdict in verdicts]
        released = judging.release(image, flagged, on_flagged)
        report = judging.report(
            verdicts,
            on_flagged,
            detector=checker.name,
            detector_sha256=checker.sha256,
            weights_sha256=checker.weights_sha256,
            threshold=threshold,
            scan=scan,
            device=str(where),
            **judging.provider_part(provider_report),
        )
        scores = [UNSCORED if verdict.score is None else verdict.score for verdict in verdicts]
        ui = {"has_nsfw_concepts": flagged, "any_flagged": (any(flagged),), "text": (report,)}
        if released is None:
            released = ExecutionBlocker(
                f"Krea Safety Check: {sum(flagged)} of {len(flagged)} images flagged, none passed"
            )
        return io.NodeOutput(released, any(flagged), flagged, scores, report, ui=ui)


NODES = [FluxKreaSafetyCheck]
