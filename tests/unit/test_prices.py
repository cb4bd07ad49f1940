"""Estimates are the providers' own examples of what a picture costs."""

import pytest
from flux_krea.nodes.providers import providers
from flux_krea.nodes.providers.contract import GenerationRequest
from price_examples import EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.provider} {example.says}")
def test_an_estimate_is_the_providers_own_example(example):
    provider, request = providers()[example.provider], GenerationRequest("a fox", **example.request)
    calls = -(-request.images // provider.max_images)
    asked = [request] if calls == 1 else [GenerationRequest("a fox", **{**example.request, "images": 1})] * calls
    assert sum(provider.estimate(each).usd for each in asked) == pytest.approx(example.usd)
