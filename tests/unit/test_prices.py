"""Estimates are the providers' own examples of what a picture costs."""

import pytest
from flux_krea.nodes.jobs.planning import split_into_calls
from flux_krea.nodes.providers import providers
from flux_krea.nodes.providers.contract import GenerationRequest
from price_examples import EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.provider} {example.says}")
def test_an_estimate_is_the_providers_own_example(example):
    provider, request = providers()[example.provider], GenerationRequest(**{"prompt": "a fox", **example.request})
    prices = [provider.estimate(each).usd for each in split_into_calls(request, provider.max_images)]
    if example.usd is None:
        assert prices == [None]
    else:
        assert sum(prices) == pytest.approx(example.usd)
