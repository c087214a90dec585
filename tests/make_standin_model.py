"""Write a model directory with the layout and shapes of CosyVoice-300M, filled with seeded random numbers.

Sizes, speed and error handling can be tried with it; it does not speak. Needs the package `onnx`.

    python tests/make_standin_model.py pretrained_models/standin          # 1.7 GB
    python tests/make_standin_model.py tiny_model --tiny                  # 6 MB
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, the folder of tests is the first

from cosyvoice.utils.yaml_loader import read_model_config  # noqa: E402

SEED = 1986
SPEAKER_DIM = 192
VOICES = ("中文女", "英文男")


@dataclass(frozen=True)
class Sizes:
    """What differs between the full model and the tiny one; the defaults are those of CosyVoice-300M."""

    text_input: int = 512
    text_width: int = 1024
    text_heads: int = 16
    text_units: int = 4096
    text_blocks: int = 6
    llm_width: int = 1024
    llm_heads: int = 16
    llm_units: int = 4096
    llm_blocks: int = 14
    text_tokens: int = 51866
    speech_tokens: int = 4096
    flow_width: int = 512
    flow_heads: int = 8
    flow_units: int = 2048
    flow_blocks: int = 6
    unet_channels: int = 256
    unet_head_dim: int = 64
    unet_heads: int = 8
    unet_blocks: int = 4
    unet_mid_blocks: int = 12
    hift_channels: int = 512
    pitch_channels: int = 512


TINY = Sizes(
    text_input=16,
    text_width=32,
    text_heads=4,
    text_units=64,
    text_blocks=2,
    llm_width=48,
    llm_heads=4,
    llm_units=96,
    llm_blocks=2,
    speech_tokens=64,
    flow_width=48,
    flow_heads=4,
    flow_units=96,
    flow_blocks=2,
    unet_channels=32,
    unet_head_dim=16,
    unet_heads=4,
    unet_blocks=2,
    unet_mid_blocks=2,
    hift_channels=32,
    pitch_channels=16,
)


def model_yaml(sizes: Sizes) -> str:
    """`cosyvoice.yaml` with every top-level key of the released file, training sections included."""
    return f"""\
__set_seed1: !apply:random.seed [1986]
__set_seed2: !apply:numpy.random.seed [1986]
__set_seed3: !apply:torch.manual_seed [1986]
__set_seed4: !apply:torch.cuda.manual_seed_all [1986]

sample_rate: 22050
text_encoder_input_size: {sizes.text_input}
llm_input_size: {sizes.llm_width}
llm_output_size: {sizes.llm_width}
spk_embed_dim: {SPEAKER_DIM}

llm: !new:cosyvoice.llm.llm.TransformerLM
    text_encoder_input_size: !ref <text_encoder_input_size>
    llm_input_size: !ref <llm_input_size>
    llm_output_size: !ref <llm_output_size>
    text_token_size: {sizes.text_tokens}
    speech_token_size: {sizes.speech_tokens}
    length_normalized_loss: True
    lsm_weight: 0
    spk_embed_dim: !ref <spk_embed_dim>
    text_encoder: !new:cosyvoice.transformer.encoder.ConformerEncoder
        input_size: !ref <text_encoder_input_size>
        output_size: {sizes.text_width}
        attention_heads: {sizes.text_heads}
        linear_units: {sizes.text_units}
        num_blocks: {sizes.text_blocks}
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0.0
        normalize_before: True
        input_layer: 'linear'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        use_cnn_module: False
        macaron_style: False
        use_dynamic_chunk: False
        use_dynamic_left_chunk: False
        static_chunk_size: 1
    llm: !new:cosyvoice.transformer.encoder.TransformerEncoder
        input_size: !ref <llm_input_size>
        output_size: !ref <llm_output_size>
        attention_heads: {sizes.llm_heads}
        linear_units: {sizes.llm_units}
        num_blocks: {sizes.llm_blocks}
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0.0
        input_layer: 'linear_legacy'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        static_chunk_size: 1
    sampling: !name:cosyvoice.utils.common.ras_sampling
        top_p: 0.8
        top_k: 25
        win_size: 10
        tau_r: 0.1

flow: !new:cosyvoice.flow.flow.MaskedDiffWithXvec
    input_size: {sizes.flow_width}
    output_size: 80
    spk_embed_dim: !ref <spk_embed_dim>
    output_type: 'mel'
    vocab_size: {sizes.speech_tokens}
    input_frame_rate: 50
    only_mask_loss: True
    encoder: !new:cosyvoice.transformer.encoder.ConformerEncoder
        output_size: {sizes.flow_width}
        attention_heads: {sizes.flow_heads}
        linear_units: {sizes.flow_units}
        num_blocks: {sizes.flow_blocks}
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0.1
        normalize_before: True
        input_layer: 'linear'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        input_size: {sizes.flow_width}
        use_cnn_module: False
        macaron_style: False
    length_regulator: !new:cosyvoice.flow.length_regulator.InterpolateRegulator
        channels: 80
        sampling_ratios: [1, 1, 1, 1]
    decoder: !new:cosyvoice.flow.flow_matching.ConditionalCFM
        in_channels: 240
        n_spks: 1
        spk_emb_dim: 80
        cfm_params: !new:omegaconf.DictConfig
            content:
                sigma_min: 1e-06
                solver: 'euler'
                t_scheduler: 'cosine'
                training_cfg_rate: 0.2
                inference_cfg_rate: 0.7
                reg_loss_type: 'l1'
        estimator: !new:cosyvoice.flow.decoder.ConditionalDecoder
            in_channels: 320
            out_channels: 80
            channels: [{sizes.unet_channels}, {sizes.unet_channels}]
            dropout: 0.0
            attention_head_dim: {sizes.unet_head_dim}
            n_blocks: {sizes.unet_blocks}
            num_mid_blocks: {sizes.unet_mid_blocks}
            num_heads: {sizes.unet_heads}
            act_fn: 'gelu'

hift: !new:cosyvoice.hifigan.generator.HiFTGenerator
    in_channels: 80
    base_channels: {sizes.hift_channels}
    nb_harmonics: 8
    sampling_rate: !ref <sample_rate>
    nsf_alpha: 0.1
    nsf_sigma: 0.003
    nsf_voiced_threshold: 10
    upsample_rates: [8, 8]
    upsample_kernel_sizes: [16, 16]
    istft_params:
        n_fft: 16
        hop_len: 4
    resblock_kernel_sizes: [3, 7, 11]
    resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    source_resblock_kernel_sizes: [7, 11]
    source_resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5]]
    lrelu_slope: 0.1
    audio_limit: 0.99
    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor
        num_class: 1
        in_channels: 80
        cond_channels: {sizes.pitch_channels}

parquet_opener: !name:cosyvoice.dataset.processor.parquet_opener
get_tokenizer: !name:whisper.tokenizer.get_tokenizer
    multilingual: True
    num_languages: 100
    language: 'en'
    task: 'transcribe'
allowed_special: 'all'
tokenize: !name:cosyvoice.dataset.processor.tokenize
    get_tokenizer: !ref <get_tokenizer>
    allowed_special: !ref <allowed_special>
filter: !name:cosyvoice.dataset.processor.filter
    max_length: 40960
    min_length: 0
    token_max_length: 200
    token_min_length: 1
resample: !name:cosyvoice.dataset.processor.resample
    resample_rate: !ref <sample_rate>
feat_extractor: !name:matcha.utils.audio.mel_spectrogram
    n_fft: 1024
    num_mels: 80
    sampling_rate: !ref <sample_rate>
    hop_size: 256
    win_size: 1024
    fmin: 0
    fmax: 8000
    center: False
compute_fbank: !name:cosyvoice.dataset.processor.compute_fbank
    feat_extractor: !ref <feat_extractor>
parse_embedding: !name:cosyvoice.dataset.processor.parse_embedding
    normalize: True
shuffle: !name:cosyvoice.dataset.processor.shuffle
    shuffle_size: 1000
sort: !name:cosyvoice.dataset.processor.sort
    sort_size: 500
batch: !name:cosyvoice.dataset.processor.batch
    batch_type: 'dynamic'
    max_frames_in_batch: 2000
padding: !name:cosyvoice.dataset.processor.padding
    use_spk_embedding: False

data_pipeline: [
    !ref <parquet_opener>,
    !ref <tokenize>,
    !ref <filter>,
    !ref <resample>,
    !ref <compute_fbank>,
    !ref <parse_embedding>,
    !ref <shuffle>,
    !ref <sort>,
    !ref <batch>,
    !ref <padding>,
]

train_conf:
    optim: adam
    optim_conf:
        lr: 0.001
    scheduler: warmuplr
    scheduler_conf:
        warmup_steps: 2500
    max_epoch: 200
    grad_clip: 5
    accum_grad: 2
    log_interval: 100
    save_per_step: -1
"""


def legacy_weight_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with weight norm spelled as in the released hift.pt: weight_g and weight_v."""
    spelling = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}
    return {_replace_suffix(key, spelling): value for key, value in state.items()}


def _replace_suffix(key: str, spelling: dict[str, str]) -> str:
    for old, new in spelling.items():
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


def speaker_model(generator: torch.Generator) -> onnx.ModelProto:
    """Filterbank (1, T, 80) -> speaker vector (1, 192): the mean over time of a random non-linear layer."""
    hidden = 64
    weights = {
        "w_in": torch.randn(80, hidden, generator=generator) / 80**0.5,
        "w_out": torch.randn(hidden, SPEAKER_DIM, generator=generator) / hidden**0.5,
    }
    nodes = [
        helper.make_node("MatMul", ["feats", "w_in"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("ReduceMean", ["active"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "w_out"], ["embedding"]),
    ]
    inputs = [helper.make_tensor_value_info("feats", TensorProto.FLOAT, [1, "T", 80])]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, SPEAKER_DIM])]
    return _onnx_model("speaker", nodes, inputs, outputs, weights)


def speech_tokenizer_model(speech_tokens: int, generator: torch.Generator) -> onnx.ModelProto:
    """Log-mel (1, 128, T) and its length (1,) int32 -> T // 2 token ids: the best of `speech_tokens` random codes."""
    weights = {"codes": torch.randn(speech_tokens, 128, 2, generator=generator) / 16, "start": torch.zeros(1).int()}
    weights["axis"] = torch.tensor([2]).int()
    nodes = [
        helper.make_node("Slice", ["feats", "start", "feats_length", "axis"], ["real"]),
        helper.make_node("Conv", ["real", "codes"], ["scores"], kernel_shape=[2], strides=[2]),
        helper.make_node("ArgMax", ["scores"], ["indices"], axis=1, keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info("feats", TensorProto.FLOAT, [1, 128, "T"]),
        helper.make_tensor_value_info("feats_length", TensorProto.INT32, [1]),
    ]
    outputs = [helper.make_tensor_value_info("indices", TensorProto.INT64, [1, "L"])]
    return _onnx_model("speech_tokenizer", nodes, inputs, outputs, weights)


def _onnx_model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, Tensor],
) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(value.numpy(), key) for key, value in weights.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def random_state(network: nn.Module, part: str) -> dict[str, Tensor]:
    """The state dict of a network as its constructor initialised it, in the released spelling."""
    state = {key: value.detach() for key, value in network.state_dict().items()}
    return legacy_weight_norm(state) if part == "hift" else state


def write_model(directory: Path, sizes: Sizes, seed: int = SEED) -> None:
    """The whole directory; each file appears under its name only when it is complete. Seeds torch's generator."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    _write(directory / "cosyvoice.yaml", model_yaml(sizes).encode())
    _write(directory / "campplus.onnx", speaker_model(generator).SerializeToString())
    tokenizer = speech_tokenizer_model(sizes.speech_tokens, generator)
    _write(directory / "speech_tokenizer_v1.onnx", tokenizer.SerializeToString())
    voices = {name: {"embedding": torch.randn(1, SPEAKER_DIM, generator=generator)} for name in VOICES}
    _save(directory / "spk2info.pt", voices)
    config = read_model_config(directory)
    torch.manual_seed(seed)
    for part in ("llm", "flow", "hift"):
        _save(directory / f"{part}.pt", random_state(config.build(part, device="cpu"), part))


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def _save(path: Path, content: dict) -> None:
    part = path.with_name(path.name + ".part")
    torch.save(content, part)
    part.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the directory named on the command line and print what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, for tests")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args(argv)
    start = time.perf_counter()
    write_model(args.directory, TINY if args.tiny else Sizes(), args.seed)
    for path in sorted(args.directory.iterdir()):
        print(f"{path.stat().st_size / 1e6:10.2f} MB  {path.name}")
    print(f"{args.directory}: random weights, written in {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
