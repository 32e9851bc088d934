"""ComfyUI's graph: values that other nodes hold, and nodes that lead nowhere."""

import json

import pytest

from sana_cli.images.foreign_graph import settings_of_graph

TEXT = {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}}


def test_the_sampler_counts_before_other_nodes_with_texts() -> None:
    graph = {
        "1": {"class_type": "Apply", "inputs": {"positive": ["3", 0], "negative": ["3", 0], "steps": 99}},
        "2": {"class_type": "KSampler", "inputs": {"positive": ["3", 0], "negative": "", "steps": 7, "seed": ["4", 0]}},
        "3": TEXT,
        "4": {"class_type": "Seed", "inputs": {"seed": 12}},
    }  # fmt: skip
    found = settings_of_graph(json.dumps(graph), "64x32")
    assert found is not None
    assert (found.steps, found.seed, found.size, found.negative_prompt) == (7, 12, "64x32", "")


@pytest.mark.parametrize("link", [["9", 0], [], [None], 5, {"a": 1}], ids=str)
def test_links_that_lead_nowhere(link: object) -> None:
    graph = {
        "2": {
            "class_type": "KSampler",
            "inputs": {"positive": ["3", 0], "negative": link, "seed": link},
        },
        "3": TEXT,
    }
    found = settings_of_graph(json.dumps(graph), "64x32")
    assert found is not None
    assert (found.prompt, found.negative_prompt) == ("a fox", "")


def test_without_a_text_there_is_nothing() -> None:
    graph = {
        "2": {"class_type": "KSampler", "inputs": {"positive": ["9", 0], "negative": ["9", 0]}}
    }
    assert settings_of_graph(json.dumps(graph), "1x1") is None
