"""merge_joint_weights.py: files that load anywhere, carry the voice, and equal the adapted model."""

import errno
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from random_data import write_random_data

import inference_joint
import merge_joint_weights
import train_joint
from checkpoint import (
    PARTS,
    adapter_epochs,
    bake_speaker,
    is_baked,
    load_checkpoint,
    merged_part,
    newest_run,
    runs_in,
    with_voice,
)
from common.files import host, only_run, own_part_name, part_name, save_torch
from common.manifest import replacing
from config import UserError
from cosyvoice.cli.cosyvoice import CosyVoice, load_part
from dataset import read_rows
from llm_flow_model import JointModel
from lora import load_adapter
from voice.loading import Source, find_weights, load_voice, weight_files

CPU = torch.device("cpu")
MEAN_SEED = 3


UNHEARD = ("--set", "eval_every_epochs=0")  # listening takes most of a tiny run's time


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return write_random_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(tiny_model_dir, data_dir, tmp_path_factory) -> Path:
    """Output folder of a short joint run whose adapters do something."""
    output = tmp_path_factory.mktemp("run")
    paths = ["--data-dir", str(data_dir), "--model-dir", str(tiny_model_dir), "--output-dir", str(output)]
    steps = ["--epochs", "2", "--lr", "2e-2", "--set", "accumulate_grad_batches=4"]
    assert train_joint.main([*paths, *steps, *UNHEARD]) == 0
    return output


@pytest.fixture
def merge(tiny_model_dir, trained, tmp_path):
    def run(
        *arguments: object, model: Path = tiny_model_dir, ckpt: Path | None = trained / "joint_joint_last.ckpt"
    ) -> int:
        chosen = ["--ckpt", ckpt] if ckpt else []
        return merge_joint_weights.main(
            [*map(str, ["--model-dir", model, "--output-dir", tmp_path, *chosen, *arguments])]
        )

    return run


def read(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("part", ["llm", "flow"])
def test_merged_files_have_the_keys_and_shapes_of_the_base(part, merge, tiny_model_dir, tmp_path):
    assert merge() == 0
    base, merged = read(tiny_model_dir / f"{part}.pt"), read(tmp_path / f"{part}_merged_joint.pt")
    assert {key: value.shape for key, value in merged.items()} == {key: value.shape for key, value in base.items()}
    load_part(tiny_model_dir, part, tmp_path / f"{part}_merged_joint.pt")


def test_the_merged_llm_equals_the_adapted_one(merge, trained, tiny_model_dir, data_dir, tmp_path):
    assert merge("--no-bake-speaker") == 0
    checkpoint = load_checkpoint(trained / "joint_joint_last.ckpt")
    config = train_joint.checkpoint_config(checkpoint, trained)
    adapted = JointModel(load_part(tiny_model_dir, "llm"), load_part(tiny_model_dir, "flow"), config)
    for part in ("llm", "flow"):
        load_adapter(adapted.part(part), checkpoint["adapters"][part], "")
    clips = read_rows(data_dir)[:2]
    merged = JointModel(
        *(load_part(tiny_model_dir, part, tmp_path / f"{part}_merged_joint.pt") for part in ("llm", "flow")), config
    )
    for part in ("llm", "flow"):
        with_adapter, base = adapted.measure(part, clips, CPU), adapted.measure(part, clips, CPU, adapters=False)
        assert merged.measure(part, clips, CPU) == pytest.approx(with_adapter, rel=1e-5)
        assert abs(with_adapter - base) > 1e-3 * base


def test_merged_files_speak_in_one_voice_whatever_vector_they_get(merge, trained, tiny_model_dir, data_dir, tmp_path):
    """The product's heart: zeros, a random vector and the true mean give the same tokens and the same mel."""
    mean = load_checkpoint(trained / "joint_joint_last.ckpt")["speaker"]["embedding"]
    torch.testing.assert_close(mean[0], read_rows(data_dir)[0].spk_embedding)
    vectors = [mean, torch.zeros(1, 192), torch.randn(1, 192, generator=torch.Generator().manual_seed(1))]

    def speak(vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        model = CosyVoice(tiny_model_dir, tmp_path / "llm_merged_joint.pt", tmp_path / "flow_merged_joint.pt").model
        torch.manual_seed(4)
        scores = model.llm.next_scores(
            model.llm.prefix(torch.tensor([[5, 6, 7]]), torch.zeros(1, 0).int(), torch.zeros(1, 0).int(), vector),
            model.llm.llm.new_cache(),
        )
        torch.manual_seed(4)
        tokens = list(model.speech_tokens(torch.tensor([[5, 6, 7]]), vector))
        mel, _ = model.flow.inference(
            torch.tensor([[1, 2, 3, 4]]), torch.tensor([4]), *empty_prompt(), vector, torch.zeros(1, 80, 0, 2)
        )
        return torch.cat([scores[0], torch.tensor(tokens).float()]), mel

    assert merge() == 0
    baked = [speak(vector) for vector in vectors]
    for llm, mel in baked[1:]:
        assert torch.equal(llm, baked[0][0]) and torch.equal(mel, baked[0][1])
    assert merge("--no-bake-speaker") == 0
    opened = [speak(vector) for vector in vectors]
    torch.testing.assert_close(opened[0][1], baked[0][1], rtol=1e-4, atol=1e-4)  # the true mean is what was baked in
    for llm, mel in opened[1:]:
        assert not torch.allclose(llm[:65], opened[0][0][:65], atol=1e-3)
        assert not torch.allclose(mel, opened[0][1], atol=1e-3)


def empty_prompt() -> tuple[torch.Tensor, ...]:
    zero = torch.tensor([0])
    return torch.zeros(1, 0).int(), zero, torch.zeros(1, 0, 80), zero


@pytest.mark.parametrize("mode", ["llm_only", "flow_only"])
def test_every_mode_writes_both_files_with_the_speaker_baked_in(mode, tiny_model_dir, data_dir, tmp_path):
    paths = ["--data-dir", str(data_dir), "--model-dir", str(tiny_model_dir), "--output-dir", str(tmp_path)]
    assert train_joint.main([*paths, "--mode", mode, "--epochs", "1", *UNHEARD]) == 0
    untrained = "flow" if mode == "llm_only" else "llm"
    base, merged = read(tiny_model_dir / f"{untrained}.pt"), read(tmp_path / f"{untrained}_merged_{mode}.pt")
    changed = {key for key in base if not torch.equal(base[key].float(), merged[key])}
    assert changed == {"spk_embed_affine_layer.weight", "spk_embed_affine_layer.bias"}
    assert all(is_baked(read(tmp_path / f"{part}_merged_{mode}.pt")) for part in ("llm", "flow"))


def test_baking_gives_what_the_affine_layer_gave():
    torch.manual_seed(0)
    layer, embedding = torch.nn.Linear(192, 8), 7 * torch.randn(1, 192)
    state = {f"spk_embed_affine_layer.{name}": value for name, value in layer.state_dict().items()}
    baked = bake_speaker(state, embedding)
    expected = layer(torch.nn.functional.normalize(embedding))[0]
    torch.testing.assert_close(baked["spk_embed_affine_layer.bias"], expected)
    assert not is_baked(state) and is_baked(baked)


def test_lora_scale_goes_from_base_to_full_strength(merge, trained, tiny_model_dir, tmp_path):
    def weight(scale: str) -> torch.Tensor:
        assert merge("--lora-scale", scale) == 0
        return read(tmp_path / "llm_merged_joint.pt")["llm.encoders.0.self_attn.linear_q.weight"]

    base = read(tiny_model_dir / "llm.pt")["llm.encoders.0.self_attn.linear_q.weight"]
    full, half = weight("1.0"), weight("0.5")
    assert torch.equal(weight("0"), base) and not torch.equal(full, base)
    torch.testing.assert_close(half, (base + full) / 2)


def test_what_is_merged_at_another_strength_says_so(merge, trained, tmp_path, capsys):
    checkpoint, path = load_checkpoint(trained / "joint_joint_last.ckpt"), tmp_path / "shares.ckpt"
    checkpoint["config"]["llm_lora"]["merge_scale"] = 0.6
    save_torch(checkpoint, path)
    for options, said in [
        ([], "flow epoch 2 at strength llm 0.6, flow 1"),
        (["--lora-scale", "0.5", "--llm-only"], "llm epoch 2 at strength 0.3"),
        (["--flow-only"], "flow epoch 2"),
    ]:
        assert merge(*options, ckpt=path) == 0
        assert capsys.readouterr().out.splitlines()[0].endswith(said)


def test_the_best_of_the_newest_run_is_merged_by_default(merge, trained, tmp_path, capsys):
    for kind in ("last", "best"):
        shutil.copy(trained / f"joint_joint_{kind}.ckpt", tmp_path)
    assert merge(ckpt=None) == 0
    assert f"{tmp_path / 'joint_joint_best.ckpt'}: mode joint" in capsys.readouterr().out


@pytest.fixture
def run_of(trained, tmp_path):
    """Puts a run into tmp_path whose `_best` holds these epochs, the base's adapters for 0."""

    def write(ended: bool, **best_epochs: int) -> None:
        last = load_checkpoint(trained / "joint_joint_last.ckpt")
        best = {key: value for key, value in last.items() if key not in ("training", "merged_step")}
        adapters = {
            part: {key: value * bool(best_epochs[part]) for key, value in adapter.items()}
            for part, adapter in last["adapters"].items()
        }
        if not ended:
            del last["merged_step"]
        save_torch(last, tmp_path / "joint_joint_last.ckpt")
        save_torch({**best, "adapters": adapters, "best_epochs": best_epochs}, tmp_path / "joint_joint_best.ckpt")

    return write


def test_an_interrupted_run_that_chose_no_epoch_yet_gives_its_newest_state(
    run_of, merge, tiny_model_dir, tmp_path, capsys
):
    run_of(ended=False, llm=0, flow=0)
    assert merge(ckpt=None) == 0
    printed = capsys.readouterr().out
    last = tmp_path / "joint_joint_last.ckpt"
    assert f"the run was interrupted before an epoch was chosen, so its newest state is merged: {last}" in printed
    assert f"{last}: mode joint, llm epoch 2, flow epoch 2\n" in printed and "warning" not in printed
    key = "llm.encoders.0.self_attn.linear_q.weight"
    assert not torch.equal(read(tmp_path / "llm_merged_joint.pt")[key], read(tiny_model_dir / "llm.pt")[key])


def test_what_was_chosen_is_merged_whether_the_run_ended_or_not(run_of, merge, tmp_path, capsys):
    """Also where the LLM was left out: the flow's epoch is a choice."""
    for ended in (True, False):
        run_of(ended, llm=0, flow=1)
        assert merge(ckpt=None) == 0
        line, *others = capsys.readouterr().out.splitlines()
        best = tmp_path / "joint_joint_best.ckpt"
        assert line == f"{best}: mode joint, llm as in the base model, flow epoch 1"
        assert not any(other.startswith("warning") for other in others)
        assert merge("--flow-only", ckpt=None) == 0
        assert capsys.readouterr().out.startswith(f"{best}: mode joint, flow epoch 1\n")


def test_a_run_that_ended_without_a_choice_is_merged_as_training_did_with_a_warning(run_of, merge, tmp_path, capsys):
    run_of(ended=True, llm=0, flow=0)
    assert merge(ckpt=None) == 0
    best, last = (tmp_path / f"joint_joint_{kind}.ckpt" for kind in ("best", "last"))
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"{best}: mode joint, llm as in the base model, flow as in the base model",
        f"warning: no epoch was chosen in {best}, so it speaks as the base model does; the newest state: --ckpt {last}",
    ]


def test_speaking_from_a_checkpoint_without_a_choice_warns(run_of, tiny_model_dir, tmp_path, capsys):
    run_of(ended=True, llm=0, flow=0)
    for kind, warned in (("best", True), ("last", False)):
        load_voice(Source(tmp_path, ckpt=tmp_path / f"joint_joint_{kind}.ckpt"), tiny_model_dir, CPU)
        assert ("so it speaks as the base model does" in capsys.readouterr().out) == warned


def test_the_epoch_that_is_named_is_that_of_the_adapter():
    """Not that of the run: one part may have stopped long ago, the other be within an epoch."""
    history = [{"epoch": 1.0, "llm_train": 3.0, "flow_train": 1.0}, {"epoch": 2.0, "flow_train": 1.0}]
    parts = {"llm": {"stopped": "it reached its loss"}, "flow": {"stopped": ""}}
    last = {"adapters": parts, "epoch": 2, "training": {"parts": parts, "history": history, "group": 3}}
    assert adapter_epochs(last) == {"llm": 1, "flow": 3}
    last["training"]["group"] = 0
    assert adapter_epochs(last) == {"llm": 1, "flow": 2}
    assert adapter_epochs({"adapters": parts, "epoch": 2}) == {"llm": 2, "flow": 2}
    assert adapter_epochs({"adapters": parts, "epoch": 9, "best_epochs": {"llm": 4, "flow": 7}}) == {
        "llm": 4,
        "flow": 7,
    }
    begun = {"parts": {"llm": {"stopped": "its base"}, "flow": {"stopped": ""}}, "history": [], "group": 0}
    assert adapter_epochs({"adapters": parts, "epoch": 0, "training": begun}) == {"llm": 0, "flow": 0}


def test_merged_files_go_beside_their_checkpoint(tiny_model_dir, trained, tmp_path):
    (tmp_path / "archive").mkdir()
    path = shutil.copy(trained / "joint_joint_last.ckpt", tmp_path / "archive")
    assert merge_joint_weights.main(["--model-dir", str(tiny_model_dir), "--ckpt", str(path)]) == 0
    assert (tmp_path / "archive" / "llm_merged_joint.pt").exists()


def test_one_part_alone_and_named_outputs(merge, tmp_path):
    assert merge("--llm-only", "--llm-output", tmp_path / "mine.pt") == 0
    assert (tmp_path / "mine.pt").exists() and not (tmp_path / "flow_merged_joint.pt").exists()
    assert merge("--flow-only") == 0
    assert (tmp_path / "flow_merged_joint.pt").exists() and not (tmp_path / "llm_merged_joint.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "llm", "flow"),
    [
        ([], "", ""),
        (["--llm-only"], "OUT/llm_merged_joint.pt", "MODEL/flow.pt"),
        (["--flow-only", "--flow-output", "a/flow.pt"], "MODEL/llm.pt", "a/flow.pt"),
        (["--llm-output", "a/llm.pt"], "a/llm.pt", "OUT/flow_merged_joint.pt"),
        (["--llm-output", "a/llm.pt", "--flow-output", "b/flow.pt"], "a/llm.pt", "b/flow.pt"),
    ],
)
def test_the_command_that_is_printed_speaks_what_was_written(
    arguments, llm, flow, merge, tiny_model_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert merge(*arguments) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("next: "))
    named = dict(zip(command[2::2], command[3::2], strict=True))
    places = [path.replace("OUT", str(tmp_path)).replace("MODEL", str(tiny_model_dir)) for path in (llm, flow)]
    assert [named.get("--llm", ""), named.get("--flow", "")] == places
    wide = ["--set", "inference.max_retries=0", "--set", "inference.max_token_text_ratio=4"]
    assert inference_joint.main([*command[2:], *wide]) == 0
    files = [path or str(tmp_path / f"{part}_merged_joint.pt") for part, path in zip(PARTS, places, strict=True)]
    assert f"speaking with {', '.join(files)}; voice: finetuned\n" in capsys.readouterr().out


def test_one_part_goes_with_that_of_its_run_where_it_was_merged_before(merge, tmp_path, capsys):
    assert merge() == 0 and merge("--llm-only") == 0
    files = f"--llm {tmp_path / 'llm_merged_joint.pt'} --flow {tmp_path / 'flow_merged_joint.pt'} "
    assert files in capsys.readouterr().out.splitlines()[-1]


def test_an_export_speaks_as_its_own_voice_whatever_lies_in_the_output_folder(merge, trained, tiny_model_dir, tmp_path):
    for name, options in (("open", ["--no-bake-speaker"]), ("baked", [])):
        assert merge("--export", tmp_path / name, *options) == 0
    own = load_checkpoint(trained / "joint_joint_last.ckpt")["speaker"]
    other = {**own, "embedding": -own["embedding"], "seconds_per_text_token": 9.0}
    for name, speaker in (("open", "finetuned"), ("baked", None)):
        folder = tmp_path / f"{name}_output"
        folder.mkdir()
        for there in (False, True):  # another voice of that name, trained since
            if there:
                save_torch(with_voice(folder / "spk2info.pt", other), folder / "spk2info.pt")
            voice = load_voice(Source(folder, base=True, speaker=speaker), tmp_path / name, CPU)[1]
            assert torch.equal(voice.embedding, own["embedding"])
            assert (voice.name, voice.seconds_per_text_token) == ("finetuned", own["seconds_per_text_token"])


def test_a_voice_that_takes_the_place_of_another_is_named(merge, trained, tmp_path, capsys):
    other, path = load_checkpoint(trained / "joint_joint_last.ckpt"), tmp_path / "other.ckpt"
    other["speaker"]["embedding"] = -other["speaker"]["embedding"]
    save_torch(other, path)
    for ckpt, said in ((path, False), (path, False), (trained / "joint_joint_last.ckpt", True)):
        assert merge(ckpt=ckpt) == 0
        assert ("the vector of 'finetuned' is replaced by this run's" in capsys.readouterr().out) == said


def test_no_voice_is_trained_on_a_model_that_has_one_fixed_in_it(merge, data_dir, tmp_path, capsys):
    assert merge("--export", tmp_path / "mine") == 0
    where = ["--data-dir", data_dir, "--model-dir", tmp_path / "mine", "--output-dir", tmp_path / "out"]
    assert train_joint.main([*map(str, where), *UNHEARD]) == 2
    assert "has a voice fixed in it, as merging leaves it, and would learn no other" in capsys.readouterr().err


def test_halves_of_two_runs_in_one_folder_are_named_with_the_way_to_speak(merge, tiny_model_dir, tmp_path, capsys):
    folder = tmp_path / "my voice"
    files = {part: folder / f"{part}_merged_{mode}.pt" for part, mode in (("llm", "llm_only"), ("flow", "flow_only"))}
    for part, file in files.items():
        assert merge(f"--{part}-only", f"--{part}-output", file) == 0
    where = ["--model-dir", str(tiny_model_dir), "--output-dir", str(folder)]
    assert inference_joint.main([*where, "--text", "Hello there."]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "are of different runs; name both to speak with them: python inference_joint.py" in error
    *_, command = error.partition("python inference_joint.py")
    assert inference_joint.main(shlex.split(command)) == 0
    assert (folder / "result.wav").exists()


def test_merged_files_that_are_replaced_are_named(merge, tmp_path, capsys):
    assert merge("--llm-only") == 0
    assert "replaced" not in capsys.readouterr().out
    assert merge() == 0
    assert (
        "llm_merged_joint.pt replaced earlier files; merged ones can be made again from their checkpoint"
        in capsys.readouterr().out
    )
    assert merge("--export", tmp_path / "mine") == 0
    assert "replaced" not in capsys.readouterr().out


def test_a_part_that_cannot_be_written_leaves_the_other_as_it_was_too(merge, tmp_path, monkeypatch, capsys):
    assert merge() == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("common.files.own_part_name", "{}.part".format)
    (tmp_path / "llm_merged_joint.pt.part").mkdir()
    assert merge("--lora-scale", "0.5") == 2
    assert "cannot write " + str(tmp_path / "llm_merged_joint.pt: Is a directory; ") in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_room_is_looked_for_where_the_files_go(merge, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(merge_joint_weights, "check_disk", lambda *request: asked.append(request))
    assert merge("--llm-output", tmp_path / "a/llm.pt", "--flow-output", tmp_path / "b/flow.pt") == 0
    (llm_folder, llm_size, llm_remedy), (flow_folder, flow_size, _) = asked
    assert (llm_folder, flow_folder) == (tmp_path / "a", tmp_path / "b")
    assert llm_remedy == "name a file in another folder with --llm-output"
    assert merge() == 0
    assert asked[2:] == [(tmp_path, llm_size + flow_size, "choose another folder with --output-dir")]
    assert merge("--export", tmp_path / "mine") == 0
    assert asked[3][::2] == (tmp_path / "mine", "choose another folder with --export")


@pytest.mark.parametrize("bake", [[], ["--no-bake-speaker"]], ids=["baked", "open"])
def test_files_of_other_names_speak_in_the_trained_voice_at_its_pace(bake, merge, trained, tiny_model_dir, tmp_path):
    files = {part: tmp_path / folder / f"{part}.pt" for part, folder in (("llm", "mine"), ("flow", "elsewhere"))}
    assert merge("--llm-output", files["llm"], "--flow-output", files["flow"], *bake) == 0
    _, voice = load_voice(Source(tmp_path, **files), tiny_model_dir, CPU)
    speaker = load_checkpoint(trained / "joint_joint_last.ckpt")["speaker"]
    assert (voice.name, voice.seconds_per_text_token) == (speaker["name"], speaker["seconds_per_text_token"])
    assert torch.equal(voice.embedding, speaker["embedding"])
    assert (tmp_path / "elsewhere" / "spk2info.pt").exists()


def test_an_exported_directory_is_a_complete_model_with_the_voice_by_name(merge, trained, tiny_model_dir, tmp_path):
    assert merge("--export", tmp_path / "mine") == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} >= {path.name for path in tiny_model_dir.iterdir()}
    exported = CosyVoice(tmp_path / "mine")
    assert exported.list_available_spks() == ["finetuned"]  # the base's voices would all speak in the trained one
    torch.manual_seed(0)
    [speech] = exported.inference_sft("hello", "finetuned")
    assert speech["tts_speech"].abs().max() > 0
    state = merged_part(load_checkpoint(trained / "joint_joint_last.ckpt"), trained, tiny_model_dir, "llm")
    exported_state = read(tmp_path / "mine" / "llm.pt")
    assert all(torch.equal(exported_state[key], value) for key, value in state.items())


@pytest.mark.parametrize("open_input", [False, True])
def test_the_command_that_is_printed_speaks_with_the_export(open_input, merge, trained, tmp_path, monkeypatch, capsys):
    """Although a voice lies in the output folder."""
    assert merge("--export", tmp_path / "my voice", *(["--no-bake-speaker"] if open_input else [])) == 0
    [command] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    words = shlex.split(command)[3:]
    output = ["--output-dir", str(trained), "--output", str(tmp_path / "a.wav"), "--device", "cpu"]
    assert inference_joint.main([*words, *output]) == 0
    said = capsys.readouterr().out
    assert f"speaking with {tmp_path / 'my voice' / 'llm.pt'}, " in said
    assert ("voice: finetuned" in said) or not open_input


def test_an_existing_folder_is_not_exported_over(merge, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x", encoding="utf-8")
    assert merge("--export", tmp_path / "mine") == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious"]


def test_a_failed_export_leaves_nothing(merge, tiny_model_dir, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    shutil.rmtree(tmp_path / "mine", ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_joint_weights, "write_merged", full_disk)
        assert merge("--export", tmp_path / "mine", model=model) == 2
    assert "cannot write" in capsys.readouterr().err
    assert not list(tmp_path.glob("mine*"))


@pytest.mark.parametrize("name", ["campplus.onnx", "speech_tokenizer_v1.onnx", "hift.pt"])
def test_a_base_with_half_a_file_is_not_exported(name, merge, tiny_model_dir, tmp_path, capsys):
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    whole = (tmp_path / "model" / name).read_bytes()
    (tmp_path / "model" / name).write_bytes(whole[: len(whole) // 2])
    assert merge("--export", tmp_path / "mine", model=tmp_path / "model") == 2
    told = capsys.readouterr().err
    assert name in told and "download it again" in told and not (tmp_path / "mine").exists()


def full_disk(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--llm-output", "same.pt", "--flow-output", "same.pt"), "name the same file"),
        (("--llm-output", "joint_joint_last.ckpt"), "give the name of a .pt file"),
        (("--llm-output", "MODEL/llm.pt"), "no results go; name a file in another folder with --llm-output"),
        (("--output-dir", "MODEL"), "no results go; choose another folder with --output-dir"),
        (("--export", "mine", "--llm-only"), "--export writes both parts"),
        (("--llm-only", "--flow-output", "flow.pt"), "--llm-only writes no flow file; leave out --flow-output"),
        (("--flow-only", "--llm-output", "llm.pt"), "--flow-only writes no llm file; leave out --llm-output"),
    ],
)
def test_outputs_that_would_destroy_something_are_refused(arguments, message, merge, tiny_model_dir, tmp_path, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in tiny_model_dir.iterdir()}
    places = [word.replace("MODEL", str(tiny_model_dir)) if "MODEL" in word else word for word in arguments]
    places = [str(tmp_path / word) if word.endswith((".pt", ".ckpt")) and "/" not in word else word for word in places]
    assert merge(*places) == 2
    assert message in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in tiny_model_dir.iterdir()} == before


def test_the_voice_that_was_merged_last_stands_last(merge, trained, tmp_path):
    for name in ("bob", "alice", "bob"):
        checkpoint = load_checkpoint(trained / "joint_joint_last.ckpt")
        checkpoint["speaker"]["name"] = name
        save_torch(checkpoint, tmp_path / "named.ckpt")
        assert merge("--llm-only", ckpt=tmp_path / "named.ckpt") == 0
    assert list(read(tmp_path / "spk2info.pt")) == ["alice", "bob"]


def test_a_voice_file_that_cannot_be_read_is_named_before_anything_is_replaced(merge, tmp_path, capsys):
    assert merge() == 0
    (tmp_path / "spk2info.pt").write_bytes(b"no voices")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert merge("--lora-scale", "0.5") == 2
    assert f"error: {tmp_path / 'spk2info.pt'}: is damaged" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_base_model_is_refused(merge, tiny_model_dir, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)
    state = read(other / "flow.pt")
    state["encoder_proj.bias"] += 1
    torch.save(state, other / "flow.pt")
    assert merge(model=other) == 2
    assert "was trained on another flow.pt than" in capsys.readouterr().err


def test_a_half_precision_base_gives_float32_files(tiny_model_dir, data_dir, tmp_path):
    model, output = tmp_path / "half", tmp_path / "out"
    shutil.copytree(tiny_model_dir, model)
    for part in ("llm", "flow"):
        torch.save({key: value.half() for key, value in read(model / f"{part}.pt").items()}, model / f"{part}.pt")
    paths = ["--data-dir", str(data_dir), "--model-dir", str(model), "--output-dir", str(output)]
    assert train_joint.main([*paths, "--epochs", "1", *UNHEARD]) == 0
    merged = read(output / "llm_merged_joint.pt")
    assert {value.dtype for value in merged.values()} == {torch.float32}


def test_a_checkpoint_whose_rank_is_wrong_is_refused(merge, trained, tmp_path, capsys):
    data = load_checkpoint(trained / "joint_joint_last.ckpt")
    data["config"]["llm_lora"]["lora_r"] = 4
    save_torch(data, tmp_path / "wrong.ckpt")
    assert merge(ckpt=tmp_path / "wrong.ckpt") == 2
    assert "not of rank 4" in capsys.readouterr().err


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text("hello", encoding="utf-8"), "is not a readable checkpoint"),
        (lambda path: path.touch(), "is not a readable checkpoint"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: torch.save({"llm": torch.zeros(1)}, path), "is not a checkpoint of train_joint.py"),
        (lambda path: torch.save(RunsCode(path.with_name("ran")), path), "could run code"),
        (lambda path: None, "is not there"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_and_runs_nothing(write, message, merge, tmp_path, capsys):
    path = tmp_path / "x.ckpt"
    write(path)
    assert merge(ckpt=path) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("scale", ["nan", "-1", "2.5"])
def test_a_senseless_scale_is_refused(scale, merge, capsys):
    assert merge(f"--lora-scale={scale}") == 2
    assert "give a number from 0" in capsys.readouterr().err


def test_without_any_run_the_way_out_is_named(merge, tmp_path, capsys):
    assert merge(ckpt=None) == 2
    train = f"python train_joint.py --output-dir {tmp_path}"
    assert f"run: {train}, or give the folder of a run with --output-dir" in capsys.readouterr().err


def test_the_command_that_is_told_for_a_cut_off_merge_mends_it(merge, tiny_model_dir, tmp_path, capsys):
    where = ("--llm-output", tmp_path / "a" / "x y.pt", "--flow-output", tmp_path / "b" / "y.pt")
    assert merge() == 0 and merge(*where) == 0
    speak = ["--llm", where[1], "--flow", where[3], "--model-dir", tiny_model_dir, "--output-dir", tmp_path]
    speak = [*map(str, speak), "--text", "Hello.", "--set", "inference.max_retries=0"]
    old = where[3].read_bytes()
    assert merge(*where, "--lora-scale", "0.5", "--no-bake-speaker") == 0
    new = [path.read_bytes() for path in where[1::2]]
    where[3].write_bytes(old)  # as if it had never been renamed
    capsys.readouterr()
    assert inference_joint.main(speak) == 2
    told = capsys.readouterr().err
    command = told.partition("merge again: python ")[2].partition(";")[0]
    assert str(where[3]) in told and merge_joint_weights.main(shlex.split(command)[1:]) == 0
    assert [path.read_bytes() for path in where[1::2]] == new and inference_joint.main(speak) == 0


def test_no_command_is_told_that_would_merge_another_voice(merge, trained, tiny_model_dir, tmp_path):
    """The checkpoint has got a successor of its name; or all was moved, and the command is for where it is now."""
    ours = tmp_path / "mine.ckpt"
    shutil.copy(trained / "joint_joint_last.ckpt", ours)
    assert merge("--lora-scale", "0.5", ckpt=ours) == 0
    shutil.copytree(tmp_path, tmp_path / "moved", ignore=shutil.ignore_patterns("moved"))
    ours.unlink()
    for folder in (tmp_path, tmp_path / "moved"):
        (folder / "llm_merged_joint.pt").write_bytes((folder / "flow_merged_joint.pt").read_bytes())
    with pytest.raises(UserError, match="merge again") as told:
        find_weights(Source(tmp_path / "moved"), tiny_model_dir)
    assert f"--ckpt {tmp_path}/moved/mine.ckpt --lora-scale 0.5 --llm-output {tmp_path}/moved/llm_" in str(told.value)
    save_torch({**load_checkpoint(tmp_path / "moved" / "mine.ckpt"), "run_id": "another"}, ours)
    with pytest.raises(UserError, match="at strength 0.5, which is gone") as told:
        find_weights(Source(tmp_path), tiny_model_dir)
    assert "mine.ckpt --lora" not in str(told.value)


def test_a_folder_of_any_name_can_be_merged_to(merge, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/out_\xb2\xe2"))
    try:
        odd.mkdir()
    except OSError:
        pytest.skip("names of this disk are UTF-8")
    assert merge("--output-dir", odd) == 0
    assert find_weights(Source(odd), odd)[1] is None


def of_two_strengths(folder: Path) -> bytes:
    """Bytes of an LLM that does not belong to the flow; the one that does lies in its place."""
    return (folder / "other" / "llm_merged_joint.pt").read_bytes()


@pytest.mark.parametrize(
    ("change", "is_told"),
    [
        (lambda folder: None, False),
        (lambda folder: (folder / "llm_merged_joint.pt").touch(), False),
        (lambda folder: (folder / "llm_merged_joint.pt").write_bytes(of_two_strengths(folder)), True),
        (lambda folder: (folder / "merged.json").write_text("[1, {", encoding="utf-8"), True),
        (lambda folder: (folder / "merged.json").write_text('{"llm_merged_joint.pt": {"bytes": []}}'), True),
        (lambda folder: (folder / "merged.json").unlink(), False),
        (lambda folder: (folder / "spk2info.pt").unlink(), False),
    ],
)
def test_a_pair_is_spoken_where_it_is_what_was_merged_last(change, is_told, merge, tiny_model_dir, tmp_path):
    assert merge() == 0 and merge("--output-dir", tmp_path / "other", "--lora-scale", "0.5") == 0
    shutil.copytree(tmp_path, tmp_path / "moved", ignore=shutil.ignore_patterns("moved"))  # with other times and places
    change(tmp_path / "moved")
    with pytest.raises(UserError, match="merge again") if is_told else nullcontext():
        find_weights(Source(tmp_path / "moved"), tiny_model_dir)


def test_the_merge_of_another_mode_or_of_one_part_leaves_a_pair_good(merge, trained, tiny_model_dir, tmp_path):
    other = load_checkpoint(trained / "joint_joint_last.ckpt")
    other["mode"] = other["config"]["training_mode"] = "flow_only"
    other["speaker"]["embedding"] = -other["speaker"]["embedding"]
    other["training"]["parts"].pop("llm")
    save_torch(other, tmp_path / "other.ckpt")
    assert merge() == 0 and merge(ckpt=tmp_path / "other.ckpt") == 0 and merge("--llm-only", "--lora-scale", "0.3") == 0
    for mode in ("joint", "flow_only"):
        pair = {part: tmp_path / f"{part}_merged_{mode}.pt" for part in PARTS}
        assert find_weights(Source(tmp_path, **pair), tiny_model_dir) == (pair, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["llm", "flow", "speaker"])
def test_a_checkpoint_that_gives_no_numbers_replaces_nothing(
    place, value, merge, trained, tiny_model_dir, tmp_path, capsys
):
    spoilt = load_checkpoint(trained / "joint_joint_last.ckpt")
    of_part = spoilt["adapters"].get(place, {})
    next((tensor for name, tensor in of_part.items() if "lora_B" in name), spoilt["speaker"]["embedding"])[0, 0] = value
    torch.save(spoilt, tmp_path / "spoilt.ckpt")
    assert merge() == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for options in ([], ["--no-bake-speaker"], ["--export", tmp_path / "mine"]):
        capsys.readouterr()
        assert merge(*options, ckpt=tmp_path / "spoilt.ckpt") == 2
        told = capsys.readouterr().err.splitlines()
        assert str(tmp_path / "spoilt.ckpt") in told[-1]
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    speak = ["--model-dir", tiny_model_dir, "--ckpt", tmp_path / "spoilt.ckpt", "--output", tmp_path / "a.wav"]
    assert inference_joint.main([*map(str, speak), "--text", "Hello."]) == 2
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("joint_joint_last.ckpt", lambda folder: load_checkpoint(folder / "joint_joint_last.ckpt")),
        ("joint_joint_last.ckpt", newest_run),
        ("llm_merged_joint.pt", lambda folder: weight_files(Source(folder), folder)),
        ("flow_merged_joint.pt", lambda folder: weight_files(Source(folder, llm=folder / "l.pt"), folder)),
        ("mine[1].pt", lambda folder: find_weights(Source(folder, llm=folder / "mine[1].pt", flow=folder), folder)),
    ],
)
def test_what_is_missing_and_lies_in_previous_is_named(name, call, tmp_path):
    for number in (1, 2):
        (tmp_path / f"previous_2026-01-0{number}_1").mkdir()
        (tmp_path / f"previous_2026-01-0{number}_1" / name).touch()
    with pytest.raises(UserError) as told:
        call(tmp_path)
    assert str(tmp_path / "previous_2026-01-02_1" / name) in str(told.value)


def test_part_files_of_dead_processes_go_and_those_of_others_stay(merge, tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        dead = process.pid
    ours = [(dead, host()), (os.getpid(), host()), (os.getppid(), host())]
    writers = [*ours, (dead, "0" * 8)]  # the last one of another computer or container
    names = [part_name("llm_merged_joint.pt", f".{pid}-{where}-{'0' * 16}") for pid, where in writers]
    names += [own_part_name("n" * 250), "my.part", f"my.{dead}-0.part"]
    for name in names:
        (tmp_path / name).touch()
    assert merge() == 0
    assert {path.name for path in tmp_path.glob("*.part")} == {*names[2:]}


def test_a_merge_goes_on_beside_a_training_and_waits_for_another_merge(merge, tmp_path, monkeypatch, capsys):
    with only_run(tmp_path, "train_joint.py"):
        assert merge() == 0
    first = replacing([tmp_path])
    first.__enter__()
    with ThreadPoolExecutor() as threads, monkeypatch.context() as patch:
        told = []
        patch.setattr("builtins.print", lambda *words, **_: told.append(words))
        waiting = threads.submit(merge, "--lora-scale", "0.5")
        while not any("waiting for it" in str(words) for words in told):
            assert not waiting.done()
        before = (tmp_path / "llm_merged_joint.pt").read_bytes()
        assert find_weights(Source(tmp_path), tmp_path)  # whoever reads has what is there
        first.__exit__(None, None, None)
        assert waiting.result(timeout=60) == 0
    assert (tmp_path / "llm_merged_joint.pt").read_bytes() != before


def test_without_locks_and_without_permission_to_write(merge, tiny_model_dir, tmp_path, monkeypatch, capsys):
    """A file system without locks merges as it always did; a reader needs neither lock nor permission."""
    monkeypatch.setattr("fcntl.flock", lambda *_: refuse(errno.ENOLCK))
    assert merge() == 0
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *_, **__: refuse(errno.EROFS))
    assert merge() == 2
    assert f"cannot write to {tmp_path}: {os.strerror(errno.EROFS)}; choose another" in capsys.readouterr().err
    assert find_weights(Source(tmp_path), tiny_model_dir)
    (tmp_path / "llm_merged_joint.pt").write_bytes(b"other")
    with pytest.raises(UserError, match="merge again"):
        find_weights(Source(tmp_path), tiny_model_dir)


def refuse(number: int) -> None:
    raise OSError(number, os.strerror(number))


@pytest.mark.skipif(os.name == "nt", reason="folders have other permissions there")
def test_a_folder_that_may_not_be_listed_is_not_taken_for_an_empty_one(
    merge, trained, tiny_model_dir, tmp_path, monkeypatch
):
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    assert merge() == 0
    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, whom nothing is refused
    for read in (lambda: runs_in(tmp_path), lambda: weight_files(Source(tmp_path), tiny_model_dir)):
        with pytest.raises(PermissionError):
            read()
    with pytest.raises(PermissionError), only_run(tmp_path, "train_joint.py"):
        pass


def test_numbers_that_no_network_has_replace_nothing(merge, trained, tmp_path, capsys):
    data = load_checkpoint(trained / "joint_joint_last.ckpt")
    next(value for key, value in data["adapters"]["llm"].items() if "lora_B" in key)[0, 0] = 1e30
    save_torch(data, tmp_path / "huge.ckpt")
    assert merge(ckpt=tmp_path / "huge.ckpt") == 2 and "endless numbers" in capsys.readouterr().err
    assert not list(tmp_path.glob("*_merged_*"))
