"""Masks of padded batches and of causal attention."""

from typing import Any

import golden
import pytest
import torch

from cosyvoice.utils.mask import attention_mask, make_pad_mask, subsequent_chunk_mask

MASKS = golden.load_json("llm/masks")


@pytest.mark.parametrize("case", MASKS["make_pad_mask"], ids=str)
def test_pad_mask(case: dict[str, Any]) -> None:
    assert make_pad_mask(torch.tensor(case["lengths"]), case["max_len"]).int().tolist() == case["mask"]


@pytest.mark.parametrize("case", MASKS["subsequent_chunk_mask"], ids=str)
def test_chunk_mask(case: dict[str, Any]) -> None:
    assert subsequent_chunk_mask(case["size"], case["chunk_size"]).int().tolist() == case["mask"]


@pytest.mark.parametrize("case", MASKS["encoder_mask"], ids=str)
def test_attention_mask(case: dict[str, Any]) -> None:
    mask = attention_mask(case["lengths"], max(case["lengths"]), case["static_chunk_size"])
    expected = torch.tensor(case["mask"])
    assert torch.equal(mask.int().expand_as(expected), expected.int())


def test_query_that_would_see_nothing_sees_everything() -> None:
    assert attention_mask([2, 0], 2, 1).int().tolist() == [[[1, 0], [1, 1]], [[1, 1], [1, 1]]]
