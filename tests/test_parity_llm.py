"""Our language-model classes against golden vectors of the reference, within the stated tolerances."""

from typing import Any

import golden
import pytest
import torch
import torch.nn.functional as F
from golden import check
from torch import Tensor, nn

from cosyvoice.llm.llm import TransformerLM
from cosyvoice.transformer.attention import LayerCache, RelPositionMultiHeadedAttention, rel_shift
from cosyvoice.transformer.embedding import EspnetRelPositionalEncoding, distance_code
from cosyvoice.transformer.encoder import ConformerEncoder, TransformerEncoder
from cosyvoice.transformer.encoder_layer import ConformerEncoderLayer, TransformerEncoderLayer
from cosyvoice.transformer.label_smoothing_loss import LabelSmoothingLoss
from cosyvoice.transformer.positionwise_feed_forward import PositionwiseFeedForward
from cosyvoice.utils.common import is_repeated, nucleus, probabilities_without, ras_sampling, th_accuracy


def causal_mask(queries: int, keys: int) -> Tensor:
    return torch.ones(keys, keys, dtype=torch.bool).tril()[-queries:].unsqueeze(0)


def check_valid(name: str, actual: Tensor, expected: Tensor, lengths: Tensor, atol: float) -> None:
    """Compare what is not padded; actual, expected: (B, T, ...)."""
    valid = torch.arange(expected.size(1)) < lengths.unsqueeze(1)
    check(name, actual[valid], expected[valid], atol)


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_relative_positions(length: int) -> None:
    stored = golden.load("llm/relpos")
    module = EspnetRelPositionalEncoding(32, dropout_rate=0.1).eval()
    scaled, code = module(stored[f"x_{length}"])
    check(f"relpos y_{length}", scaled, stored[f"y_{length}"], 1e-6)
    check(f"relpos pos_{length}", code, stored[f"pos_{length}"], 1e-6)
    check(f"relpos causal_{length}", module(stored[f"x_{length}"], causal=True)[1], code[:, :length], 1e-6)


def test_code_of_signed_distances() -> None:
    expected = golden.load("llm/relpos")["signed_6_to_m6"]
    check("relpos signed", distance_code(torch.arange(6, -7, -1), 32), expected, 1e-6)


@pytest.fixture
def attention() -> RelPositionMultiHeadedAttention:
    module = RelPositionMultiHeadedAttention(**golden.config("llm/rel_mha")).eval()
    module.load_state_dict(golden.weights("llm/rel_mha"))
    return module


@torch.no_grad()
def test_attention_with_masks(attention: RelPositionMultiHeadedAttention) -> None:
    stored = golden.load("llm/rel_mha")
    x, lengths, pos_emb = stored["x"], stored["lengths"], stored["pos_emb"]
    causal = stored["mask"].bool()
    pad = (torch.arange(x.size(1)) < lengths.unsqueeze(1)).unsqueeze(1)
    check("rel_mha out_masked", attention(x, pos_emb, causal), stored["out_masked"], 1e-5)
    check("rel_mha out_padmask_only", attention(x, pos_emb, pad), stored["out_padmask_only"], 1e-5)
    check("rel_mha out_nomask_b0", attention(x[:1], pos_emb), stored["out_nomask_b0"], 1e-5)
    left_only = attention(x, pos_emb[:, : x.size(1)], causal)
    check("rel_mha distances to the left only", left_only, stored["out_masked"], 1e-5)


@torch.no_grad()
def test_attention_with_cache(attention: RelPositionMultiHeadedAttention) -> None:
    stored = golden.load("llm/rel_mha")
    whole = LayerCache()
    out = attention(stored["x"], None, stored["mask"].bool(), whole)
    check("rel_mha cached whole", out, stored["out_masked"], 1e-5)
    check("rel_mha cache_masked", whole.kv, stored["cache_masked"], 1e-5)
    cache, pieces = LayerCache(), []
    for piece in stored["x"][:1].split([5, 1, 2, 1], dim=1):
        pieces.append(attention(piece, None, causal_mask(piece.size(1), cache.length + piece.size(1)), cache))
    check("rel_mha out_incremental_b0", torch.cat(pieces, dim=1), stored["out_incremental_b0"], 1e-5)
    check("rel_mha cache_final_b0", cache.kv, stored["cache_final_b0"], 1e-5)


@pytest.mark.parametrize("name", ["rel_shift", "rel_shift1"])
def test_rel_shift(name: str) -> None:
    stored = golden.load("llm/rel_mha")
    expected = stored[f"{name}_out"]
    check(f"rel_mha {name}", rel_shift(F.pad(stored[f"{name}_in"], (1, 0)), expected.size(-1)), expected, 1e-6)


@pytest.mark.parametrize(
    ("name", "layer_class", "activation"),
    [("conformer", ConformerEncoderLayer, nn.SiLU), ("transformer", TransformerEncoderLayer, nn.ReLU)],
)
@torch.no_grad()
def test_layer(name: str, layer_class: type[nn.Module], activation: type[nn.Module]) -> None:
    stored, config = golden.load("llm/layers"), golden.config("llm/layers")[name]
    size, mask = config["size"], stored["mask"].bool()
    layer = layer_class(
        size,
        RelPositionMultiHeadedAttention(config["heads"], size, 0.0),
        PositionwiseFeedForward(size, config["ff"], 0.1, activation()),
        0.1,
    ).eval()
    layer.load_state_dict(golden.weights("llm/layers", f"{name}."))
    check(f"layers {name}_out", layer(stored["x"], stored["pos_emb"], mask), stored[f"{name}_out"], 2e-5)
    small = layer(stored["x_small"], stored["pos_emb"], mask)
    check(f"layers {name}_out_small", small, stored[f"{name}_out_small"], 2e-5)
    cache = LayerCache()
    check(f"layers {name}_out cached", layer(stored["x"], None, mask, cache), stored[f"{name}_out"], 2e-5)
    check(f"layers {name}_att_cache", cache.kv, stored[f"{name}_att_cache"], 2e-5)


def encoder(name: str) -> ConformerEncoder | TransformerEncoder:
    config = golden.config(name).copy()
    module = {"ConformerEncoder": ConformerEncoder, "TransformerEncoder": TransformerEncoder}[config.pop("class")](
        **config
    )
    module.load_state_dict(golden.weights(name))
    return module.eval()


@pytest.mark.parametrize("name", ["llm/text_encoder", "llm/llm_encoder"])
@torch.no_grad()
def test_encoder(name: str) -> None:
    stored, module = golden.load(name), encoder(name)
    x, lengths = stored["x"], stored["lengths"]
    embedded, code = module.embed(x)
    check(f"{name} embed_out", embedded, stored["embed_out"], 2e-5)
    check(f"{name} pos_emb", code, stored["pos_emb"], 2e-5)
    out, mask = module(x, lengths)
    check_valid(f"{name} out", out, stored["out"], lengths, 2e-5)
    assert torch.equal(mask, stored["out_mask"].bool())


@torch.no_grad()
def test_text_encoder_item_without_padding() -> None:
    stored, module = golden.load("llm/text_encoder"), encoder("llm/text_encoder")
    length = int(stored["lengths"][1])
    out, _ = module(stored["x"][1:2, :length], torch.tensor([length]))
    check("llm/text_encoder out_item1_alone", out, stored["out_item1_alone"], 2e-5)


@torch.no_grad()
def test_llm_encoder_by_chunks() -> None:
    stored, module = golden.load("llm/llm_encoder"), encoder("llm/llm_encoder")
    x, prefix = stored["x"][:1], stored["att_cache_after_prefix"].size(2)
    part, att_cache, cnn_cache = module.forward_chunk(x[:, :prefix], 0, att_mask=causal_mask(prefix, prefix))
    check("llm/llm_encoder att_cache_after_prefix", att_cache, stored["att_cache_after_prefix"], 2e-5)
    parts = [part]
    for i in range(prefix, x.size(1)):
        part, att_cache, cnn_cache = module.forward_chunk(x[:, i : i + 1], i, att_cache=att_cache, cnn_cache=cnn_cache)
        parts.append(part)
    check("llm/llm_encoder out_chunked_item0", torch.cat(parts, dim=1), stored["out_chunked_item0"], 2e-5)
    check("llm/llm_encoder att_cache_final", att_cache, stored["att_cache_final"], 2e-5)
    assert cnn_cache.shape == (2, 0, 0, 0)


@torch.no_grad()
def test_flow_encoder() -> None:
    name = "flow/g09_encoder"
    stored = golden.load(name)
    module = ConformerEncoder(**golden.config(name)["ConformerEncoder"]).eval()
    module.load_state_dict(golden.weights("flow/flow_tiny_weights", "encoder."))
    x, lengths = stored["in.x"], stored["in.x_lens"]
    embedded, code = module.embed(x)
    check(f"{name} embed", embedded, stored["out.embed"], golden.tolerance(name, "embed"))
    check(f"{name} pos_emb", code, stored["out.pos_emb"], golden.tolerance(name, "pos_emb"))
    mask = (torch.arange(x.size(1)) < lengths.unsqueeze(1)).unsqueeze(1)
    first = module.encoders[0](embedded, code, mask)
    check(f"{name} layer0", first, stored["out.layer0"], golden.tolerance(name, "layer0"))
    second = module.encoders[1](first, code, mask)
    check(f"{name} layer1", second, stored["out.layer1"], golden.tolerance(name, "layer1"))
    small = module.encoders[0](stored["in.x_small"], code, mask)
    check(f"{name} layer0_small", small, stored["out.layer0_small"], golden.tolerance(name, "layer0_small"))
    small = module.after_norm(stored["in.x_small"])
    check(f"{name} after_norm_small", small, stored["out.after_norm_small"], golden.tolerance(name, "after_norm_small"))
    out, out_mask = module(x, lengths)
    check(f"{name} y", out, stored["out.y"], golden.tolerance(name, "y"))
    assert torch.equal(out_mask, stored["out.mask"].bool())


def language_model(config: dict[str, Any], weights: dict[str, Tensor], **options: Any) -> TransformerLM:
    model = TransformerLM(
        **{**config["lm"], **options},
        text_encoder=ConformerEncoder(**config["text_encoder"]),
        llm=TransformerEncoder(**config["llm"]),
    )
    model.load_state_dict(weights)
    return model.eval()


def training_batch() -> dict[str, Tensor]:
    stored = golden.load("llm/lm_forward")
    return {key.removeprefix("batch."): value for key, value in stored.items() if key.startswith("batch.")}


def test_training_input_and_logits() -> None:
    name = "llm/lm_forward"
    stored, batch = golden.load(name), training_batch()
    model = language_model(golden.config(name), golden.weights(name))
    lm_input, lengths, target = model.teacher_forced_input(batch, "cpu")
    assert torch.equal(lengths, stored["a.lm_input_len"].long())
    assert torch.equal(target, stored["a.lm_target"])
    check_valid(f"{name} a.lm_input", lm_input, stored["a.lm_input"], lengths, 1e-4)
    check_valid(f"{name} a.lm_output", model.llm(lm_input, lengths)[0], stored["a.lm_output"], lengths, 1e-4)
    check_valid(f"{name} a.logits", model.logits(batch, "cpu")[0], stored["a.logits"], lengths, 1e-4)


@pytest.mark.parametrize("case", ["a", "b", "c", "d"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_loss_and_gradients(case: str, checkpointing: bool) -> None:
    name = "llm/lm_forward"
    stored, config = golden.load(name), golden.config(name)
    model = language_model(config, golden.weights(name), **config["cases"][case])
    model.llm.gradient_checkpointing = model.text_encoder.gradient_checkpointing = checkpointing
    result = model(training_batch(), "cpu")
    check(f"{name} {case}.loss", result["loss"], stored[f"{case}.loss"], 0.0, 1e-5)
    check(f"{name} {case}.acc", result["acc"], stored[f"{case}.acc"], 1e-6)
    result["loss"].backward()
    prefix = f"{case}.grad."
    for key in (key for key in stored if key.startswith(prefix)):
        gradient = model.get_parameter(key.removeprefix(prefix)).grad
        check(f"{name} {key}", gradient, stored[key], 1e-6, 1e-4)


@pytest.mark.parametrize("case", golden.config("llm/loss")["cases"], ids=lambda case: case["key"])
def test_loss(case: dict[str, Any]) -> None:
    stored, key = golden.load("llm/loss"), case["key"]
    criterion = LabelSmoothingLoss(case["V"], case["padding_idx"], case["smoothing"], case["normalize_length"])
    x, target = stored[f"{key}.x"].clone().requires_grad_(), stored[f"{key}.target"]
    loss = criterion(x, target)
    check(f"loss {key}.loss", loss, stored[f"{key}.loss"], 0.0, 1e-6)
    accuracy = th_accuracy(x.flatten(0, 1), target, case["padding_idx"])
    check(f"loss {key}.acc", accuracy, stored[f"{key}.acc"], 1e-6)
    if f"{key}.grad_x" in stored:
        loss.backward()
        check(f"loss {key}.grad_x", x.grad, stored[f"{key}.grad_x"], 1e-6)


DECODE_CASES = ["noprompt", "prompt", "instruct_noembed", "noprompt_noembed"]


@pytest.fixture(scope="module", params=["as_loaded", "prepared"])
def decoder(request: pytest.FixtureRequest) -> TransformerLM:
    model = language_model(golden.config("llm/decode"), golden.weights("llm/decode"))
    if request.param == "prepared":
        model.prepare_inference()
    return model


def decode_inputs(case: str) -> dict[str, Tensor]:
    stored = golden.load("llm/decode")
    return {key: stored[f"{case}.{key}"] for key in ("text", "prompt_text", "prompt_speech_token", "embedding")}


@pytest.mark.parametrize("case", DECODE_CASES)
@torch.inference_mode()
def test_greedy_decoding(case: str, decoder: TransformerLM) -> None:
    stored, runs, inputs = golden.load("llm/decode"), golden.load_json("llm/decode_runs"), decode_inputs(case)
    text = torch.cat([inputs["prompt_text"], inputs["text"]], dim=1)
    encoded = decoder.encode_text(text, torch.tensor([text.size(1)]))
    check(f"decode {case}.text_encoder_affine_out", encoded, stored[f"{case}.text_encoder_affine_out"], 1e-4)
    step = decoder.prefix(**inputs)
    check(f"decode {case}.lm_prefix", step, stored[f"{case}.lm_prefix"], 1e-4)
    cache, ids, logits = decoder.llm.new_cache(), [], []
    for _ in range(runs["steps"]):
        logits.append(decoder.llm_decoder(decoder.llm.decode(step, cache)[0, -1]))
        ids.append(int(logits[-1][: decoder.speech_token_size].argmax()))
        step = decoder.speech_embedding.weight[ids[-1]].view(1, 1, -1)
    check(f"decode {case}.step_logits", torch.stack(logits), stored[f"{case}.step_logits"], 1e-4)
    kv = torch.cat([layer.kv for layer in cache])
    check(f"decode {case}.att_cache_final", kv, stored[f"{case}.att_cache_final"], 1e-4)
    assert ids == runs["greedy_ids"][case]


def run_inference(model: TransformerLM, inputs: dict[str, Tensor], **ratios: float) -> list[int]:
    lengths = {
        f"{key}_len": torch.tensor([inputs[key].size(1)]) for key in ("text", "prompt_text", "prompt_speech_token")
    }
    return list(model.inference(**inputs, **lengths, **ratios))


def greedy_model(run: dict[str, Any]) -> TransformerLM:
    """Model of one stored run: the best token is taken, and EOS is as likely as the run wants it."""
    weights = golden.weights("llm/decode")
    bias = weights["llm_decoder.bias"].clone()
    bias[-1] += run["eos_bias_added"]
    return language_model(
        golden.config("llm/decode"),
        {**weights, "llm_decoder.bias": bias},
        sampling=lambda scores, history, sampling: int(scores.argmax()),
    )


def run_ratios(run: dict[str, Any]) -> dict[str, float]:
    return {"max_token_text_ratio": run["max_ratio"], "min_token_text_ratio": run["min_ratio"]}


INFERENCE_RUNS = golden.load_json("llm/decode_runs")["inference_runs"]


@pytest.mark.parametrize("case", DECODE_CASES)
def test_inference_runs(case: str) -> None:
    runs = [run for run in INFERENCE_RUNS if run["case"] == case]
    assert len(runs) == 12
    for run in runs:
        model = greedy_model(run)
        model.fewest_tokens = 0  # the reference may return nothing
        assert run_inference(model, decode_inputs(case), **run_ratios(run)) == run["tokens"]
        limit = int(decode_inputs(case)["text"].size(1) * run["max_ratio"])
        assert model.stopped_by_eos == (len(run["tokens"]) < limit)


@pytest.mark.parametrize("run", [run for run in INFERENCE_RUNS if not run["tokens"]], ids=lambda run: run["case"])
def test_at_least_one_token_comes_out(run: dict[str, Any]) -> None:
    assert len(run_inference(greedy_model(run), decode_inputs(run["case"]), **run_ratios(run))) == 1


SAMPLING = golden.load_json("llm/sampling")
SAMPLING_KEYS = ("top_p", "top_k", "win_size", "tau_r")


@pytest.mark.parametrize("case", [case for case in SAMPLING if case["key"] != "sequence"], ids=lambda case: case["key"])
def test_sampling(case: dict[str, Any]) -> None:
    stored, key = golden.load("llm/sampling"), case["key"]
    scores = stored[f"{key}.logits"].log_softmax(dim=0)
    if case["ignore_eos"]:
        scores[case["eos"]] = -torch.inf
    before = scores.clone()
    ids, probabilities = nucleus(scores.softmax(dim=0), case["top_p"], case["top_k"])
    assert torch.equal(ids, stored[f"{key}.candidate_ids"])
    check(f"sampling {key}.candidate_probs", probabilities, stored[f"{key}.candidate_probs"], 1e-6)
    settings = {name: case[name] for name in SAMPLING_KEYS}
    generator = torch.Generator().manual_seed(case["seed"])
    assert ras_sampling(scores, case["decoded"], generator=generator, **settings) == case["chosen"]
    torch.manual_seed(case["seed"])
    assert ras_sampling(scores, case["decoded"], **settings) == case["chosen"]
    assert torch.equal(scores, before)


@pytest.mark.parametrize("case", [case for case in SAMPLING if case["key"] != "sequence"], ids=lambda case: case["key"])
def test_sampling_falls_back_on_repeats(case: dict[str, Any]) -> None:
    stored, key = golden.load("llm/sampling"), case["key"]
    for token, expected in case["fallback_if_drawn"].items():
        assert is_repeated(int(token), case["decoded"], case["win_size"], case["tau_r"]) == expected
    if f"{key}.fallback_probs" in stored:
        scores = stored[f"{key}.logits"].log_softmax(dim=0)
        if case["ignore_eos"]:
            scores[case["eos"]] = -torch.inf
        others = probabilities_without(scores, case["first_draw"])
        check(f"sampling {key}.fallback_probs", others, stored[f"{key}.fallback_probs"], 1e-6)


def test_sampling_sequence() -> None:
    case, logits = SAMPLING[-1], golden.load("llm/sampling")["sequence.logits"]
    assert case["key"] == "sequence"
    torch.manual_seed(case["seed"])
    history: list[int] = []
    for i, scores in enumerate(logits.log_softmax(dim=-1)):
        if i < case["min_len"]:
            scores[case["eos"]] = -torch.inf
        history.append(ras_sampling(scores, history, **{name: case[name] for name in SAMPLING_KEYS}))
    assert history == case["chosen"]


def test_state_dict_is_the_released_one() -> None:
    """Keys and shapes at full size, built without memory."""
    encoder = {"dropout_rate": 0.1, "positional_dropout_rate": 0.1, "attention_dropout_rate": 0, "static_chunk_size": 1}
    size = {"output_size": 1024, "attention_heads": 16, "linear_units": 4096}
    with torch.device("meta"):
        model = TransformerLM(
            text_encoder_input_size=512,
            llm_input_size=1024,
            llm_output_size=1024,
            text_token_size=51866,
            speech_token_size=4096,
            text_encoder=ConformerEncoder(input_size=512, num_blocks=6, **size, **encoder),
            llm=TransformerEncoder(input_size=1024, num_blocks=14, input_layer="linear_legacy", **size, **encoder),
            lsm_weight=0,
        )
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    manifest = golden.load_json("manifests/llm_manifest")["state_dict"]
    assert shapes == {key: shape for key, (shape, _) in manifest.items()}
    assert len(shapes) == 401
    assert sum(parameter.numel() for parameter in model.parameters()) == 310_718_465
    assert not list(model.buffers())
