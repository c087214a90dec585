"""The parts of build_mini that can be silently wrong: packed weights, clusters, alignments, what earlier runs left."""

import errno
import os
import shutil
import signal
import subprocess
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from build_mini import build, corpus, export, extract, graphs, readings, speech_tokenizer
from build_mini.build import STAGES
from build_mini.clips import load_readings
from build_mini.common import (
    CODES,
    MEL_RATE,
    MODEL_DIR,
    READINGS,
    SEED,
    SOURCES,
    Clip,
    Progress,
    load_tokens,
    read_manifest,
    replace_file,
    running_mean,
    save_arrays,
    save_tokens,
    tokenizer_of,
    write_text,
)
from build_mini.corpus import flite_jobs
from build_mini.evaluate import SENTENCES
from build_mini.features import mel_frame_pitch
from build_mini.flow import start_as_denoiser
from build_mini.four_bits import pack, rounded, unpack
from build_mini.graphs import SPEAKER_ENCODER, SPEECH_TOKENIZER, graph_path, pack_weights
from build_mini.kokoro import PAUSE, phone_track
from build_mini.kokoro import jobs as kokoro_jobs
from build_mini.llm import at_speed, spoken_symbols
from build_mini.readings import jobs as reading_jobs
from build_mini.speech_tokenizer import CLUSTERS, cluster, nearest
from build_mini.vocoder import mini_config
from config import UserError
from cosyvoice.utils.common import MEL_HOP
from cosyvoice.utils.weights import file_fingerprint, load_state_dict_file


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal(size=(48, 64)).astype(np.float32)


def test_four_bits_hold_a_rounded_matrix_without_loss(matrix):
    once = rounded(matrix)
    assert np.array_equal(rounded(once), once)
    blocks = np.abs(matrix.reshape(-1, 32)).max(axis=1).repeat(32).reshape(matrix.shape)
    assert (np.abs(once - matrix) <= 0.501 * blocks / 7).all()  # half a level


def test_four_bits_take_nine_sixteenths_of_a_byte_a_weight(matrix):
    packed, scales = pack(matrix)
    assert packed.nbytes + scales.nbytes == matrix.size * 9 // 16
    assert np.array_equal(unpack(packed, scales, matrix.shape), rounded(matrix))


@pytest.mark.parametrize("turned", [False, True])
def test_a_packed_graph_computes_the_same(matrix, turned):
    weight = rounded(matrix)
    stored = np.ascontiguousarray(weight.T) if turned else weight
    plain = np.random.default_rng(1).normal(size=(stored.shape[1], 96)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("MatMul", ["y", "v"], ["z"])]
    x = np.random.default_rng(2).normal(size=(3, stored.shape[0])).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "two products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, (3, 96))],
        [numpy_helper.from_array(stored, "w"), numpy_helper.from_array(plain, "v")],
    )
    pack_weights(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    assert {i.name: i.data_type for i in graph.initializer}["w.packed"] == TensorProto.UINT8
    assert {i.name: i.data_type for i in graph.initializer}["v.half"] == TensorProto.FLOAT16
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = x @ stored @ plain.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-4, atol=1e-4)


def test_clusters_find_well_separated_groups():
    torch.manual_seed(0)
    middles = 10 * torch.randn(6, 4)
    points = (middles[:, None] + 0.1 * torch.randn(6, 50, 4)).flatten(0, 1)
    labels = nearest(points, cluster(points, 12, 20)).view(6, 50)
    assert not any(set(a.tolist()) & set(b.tolist()) for i, a in enumerate(labels) for b in labels[:i])


def test_nearest_is_the_smallest_distance():
    torch.manual_seed(0)
    points, centres = torch.randn(7, 5, 8), torch.randn(11, 8)
    distances = (points[:, :, None] - centres).square().sum(dim=3)
    assert torch.equal(nearest(points, centres), distances.argmin(dim=2))


def clip(phones, ends):
    return Clip("a", "slt", "en", "train", "", ends[-1], phones, ends)


def test_each_token_knows_the_symbol_that_is_spoken():
    symbols = "HH AY1 | DH EH1 R .".split()
    spoken = spoken_symbols(
        symbols, clip(["pau", "hh", "ay", "dh", "eh", "r", "pau"], [0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]), 25
    )
    heard = [symbols[i] for i in spoken]
    assert heard[0] == "HH"  # the silence before the first sound
    assert heard[7] == "AY1" and heard[11] == "DH" and heard[-1] == "."
    assert "|" not in heard and list(spoken) == sorted(spoken)


def test_a_clip_that_says_something_else_is_left_out():
    assert spoken_symbols("HH AY1 .".split(), clip(["b", "uw", "pau"], [0.2, 0.4, 0.5]), 12) is None


def test_phone_ends_follow_the_speed():
    assert at_speed(clip(["hh"], [1.0]), "5/4").ends == [0.8]
    assert at_speed(clip(["hh"], [1.0]), "").ends == [1.0]


def test_word_gaps_are_shared_out_and_punctuation_is_a_pause():
    names = [PAUSE, "HH", "AH0", "|", "B", ",", "|", "D", PAUSE]
    phones, ends = phone_track(names, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert phones == ["pau", "hh", "ax", "b", "pau", "pau", "d", "pau"]
    assert ends == pytest.approx([0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9])


def test_no_reading_is_a_sentence_on_which_the_model_is_judged():
    readings = list(reading_jobs())
    held_out = {text for _, _, split, text in flite_jobs() if split == "test"}
    judged = set(SENTENCES.read_text(encoding="utf-8").splitlines())
    assert len({clip_id for clip_id, _, _, _ in readings}) == len(readings) > 15_000
    assert not {text for _, _, _, text in readings} & (held_out | judged)


def test_what_kokoro_speaks_for_the_tests_is_nowhere_trained_on():
    spoken = kokoro_jobs()
    train = [job for job in spoken if job[2] == "train"]
    trained = {text for _, _, split, text in (*train, *flite_jobs(), *reading_jobs()) if split != "test"}
    test = {text for _, _, split, text in spoken if split == "test"}
    assert len(test) >= 20 and not test & trained
    # shipped weights were made from these texts in this order
    assert (
        sha256(repr(train).encode()).hexdigest() == "0507ec6192563cbac2da8288c1113816cb54200b616c7397390995d49d433bfd"
    )


@torch.inference_mode()
def test_a_decoder_starts_by_taking_the_noise_away():
    torch.manual_seed(0)
    estimator = mini_config().build("flow", device="cpu").decoder.estimator
    noise, nothing = torch.randn(2, 80, 60), torch.zeros(2, 80, 60)
    mels = [SimpleNamespace(speech_feat=torch.full((60, 80), -5.0))]

    def noise_left() -> float:
        """Correlation of velocity and noise: 0 where the noise is not seen, -1 where it is taken away."""
        velocity = estimator(noise, None, nothing, torch.zeros(2), torch.zeros(2, 80), nothing)
        return float(torch.corrcoef(torch.stack([velocity.flatten(), noise.flatten()]))[0, 1])

    assert abs(noise_left()) < 0.2
    start_as_denoiser(estimator, mels)
    assert noise_left() < -0.6


@pytest.mark.parametrize("name", [SPEECH_TOKENIZER, SPEAKER_ENCODER])
def test_a_graph_without_a_trained_state_is_the_shipped_one(name, tmp_path):
    assert graph_path(tmp_path, name) == MODEL_DIR / name


TRAINED = ("tokens", "speaker", "vocoder", "f0", "flow", "llm")


def test_every_stage_with_a_time_budget_is_known_here():
    assert [name for name in STAGES if hasattr(import_module(STAGES[name]), "MINUTES")] == list(TRAINED)


@pytest.mark.parametrize("name", TRAINED)
def test_a_finished_stage_says_so_and_touches_nothing(name, tmp_path, capsys):
    save_tokens(tmp_path, "tokens", {}, "one")
    earlier = Progress(tmp_path, name, 1.0, tokenizer="one" if name in ("flow", "llm") else "", step=7, spent=61.0)
    earlier.checkpoint({})
    (tmp_path / CLUSTERS).touch()
    before = earlier.state_path.stat()
    import_module(STAGES[name]).build(tmp_path, minutes=1.0)  # needs no data
    assert f"| {name} | finished: 7 steps, 1.0 min" in capsys.readouterr().out
    after = earlier.state_path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_larger_time_budget_goes_on_and_a_spent_one_saves_nothing(tmp_path):
    Progress(tmp_path, "flow", minutes=1.0, step=7, spent=61.0).checkpoint({})
    more, same = (Progress(tmp_path, "flow", minutes) for minutes in (2.0, 1.0))
    assert not more.finished()
    same.resume({})
    before = same.state_path.stat().st_mtime_ns
    assert list(same.steps({})) == [] and same.state_path.stat().st_mtime_ns == before


def test_missing_clusters_are_found_and_always_the_same(tmp_path, monkeypatch):
    """They do not depend on what was drawn before: training, or another start."""
    tokenizer = SimpleNamespace(head=torch.nn.Linear(1, 1))
    monkeypatch.setattr(speech_tokenizer, "aligned_clips", lambda work: [])
    monkeypatch.setattr(speech_tokenizer, "load_items", lambda *args: {})
    monkeypatch.setattr(speech_tokenizer, "fresh_tokenizer", lambda tables: tokenizer)
    monkeypatch.setattr(speech_tokenizer, "sounds", lambda *args: torch.randn(2 * CODES, 3))
    monkeypatch.setattr(speech_tokenizer, "figures", lambda *args: "")
    monkeypatch.setattr(speech_tokenizer, "CLUSTER_ROUNDS", 2)
    mean = running_mean(tokenizer.head)
    optimizer = torch.optim.AdamW(tokenizer.head.parameters())
    parts = {"head": tokenizer.head, "mean": mean, "optimizer": optimizer}
    Progress(tmp_path, "tokens", minutes=1.0, step=7, spent=61.0).checkpoint(parts)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        (tmp_path / CLUSTERS).unlink(missing_ok=True)
        speech_tokenizer.build(tmp_path, minutes=1.0)
        found.append(torch.load(tmp_path / CLUSTERS, weights_only=True))
    assert torch.equal(*found)


def test_no_tokenizer_is_written_while_it_is_trained(tmp_path):
    Progress(tmp_path, "tokens", minutes=1.0, step=7).checkpoint({})
    with pytest.raises(UserError, match="clusters.pt is missing or older .* finish .* --stage tokens first"):
        graph_path(tmp_path, SPEECH_TOKENIZER)
    (tmp_path / CLUSTERS).touch()
    os.utime(tmp_path / CLUSTERS, (1.0, 1.0))
    with pytest.raises(UserError, match="finish .* --stage tokens first"):
        graph_path(tmp_path, SPEECH_TOKENIZER)


@pytest.mark.parametrize("newer", ["tokens.state.pt", CLUSTERS])
def test_a_graph_is_written_again_after_a_change_of_state_or_clusters(newer, tmp_path, monkeypatch):
    written = []
    monkeypatch.setitem(
        graphs.WRITERS, SPEECH_TOKENIZER, (graphs.WRITERS[SPEECH_TOKENIZER][0], lambda *a: written.append(a))
    )
    for number, name in enumerate(("tokens.state.pt", CLUSTERS, SPEECH_TOKENIZER), start=1):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (number, number))
    graph_path(tmp_path, SPEECH_TOKENIZER)
    assert not written
    os.utime(tmp_path / newer, (9.0, 9.0))
    graph_path(tmp_path, SPEECH_TOKENIZER)
    assert len(written) == 1


@pytest.mark.parametrize("name", ["flow", "llm"])
def test_what_was_learnt_of_another_tokenizer_is_not_gone_on_with(name, tmp_path):
    save_tokens(tmp_path, "tokens", {}, "another")
    Progress(tmp_path, name, minutes=1.0, tokenizer="one", step=7, spent=30.0).checkpoint({})
    with pytest.raises(UserError, match=f"{name}.state.pt was trained on .* another tokenizer; remove it"):
        import_module(STAGES[name]).build(tmp_path, minutes=1.0)


@pytest.fixture
def one_reading(tmp_path, monkeypatch):
    """A work folder in which the stage `readings` speaks one sentence, whose token is the first byte of the graph."""
    (tmp_path / "wav").mkdir()
    path = tmp_path / SPEECH_TOKENIZER
    monkeypatch.setattr(readings, "jobs", lambda: iter([("a", "slt", "train", "Yes.")]))
    monkeypatch.setattr(readings, "graph_path", lambda work, name: path)
    monkeypatch.setattr(readings, "open_graph", lambda work, name: path.read_bytes())
    monkeypatch.setattr(readings, "require_programs", lambda *names: None)  # flite speaks the real ones
    monkeypatch.setattr(readings, "read_aloud", lambda folder, job, graph: (clip(["y"], [1.0]), np.array([graph[0]])))
    return tmp_path


def test_readings_are_made_again_after_another_tokenizer(one_reading):
    name = f"tokens_{READINGS}"
    for graph, token in ((b"a", 97), (b"a", 97), (b"b", 98)):
        (one_reading / SPEECH_TOKENIZER).write_bytes(graph)
        readings.build(one_reading)
        assert {key: list(value) for key, value in load_tokens(one_reading, name).items()} == {"a": [token]}
        assert len(read_manifest(one_reading, READINGS)) == 1
    save_tokens(one_reading, "tokens", {}, tokenizer_of(one_reading, name))
    assert list(load_readings(one_reading)) == ["a"]
    save_tokens(one_reading, "tokens", {}, "another")
    with pytest.raises(UserError, match="of different tokenizers; run: .* --stage extract, then --stage readings"):
        load_readings(one_reading)


def test_tokens_tell_which_tokenizer_made_them(tmp_path, monkeypatch):
    (tmp_path / SPEECH_TOKENIZER).write_bytes(b"a")
    monkeypatch.setattr(extract, "graph_path", lambda work, name: work / name)
    monkeypatch.setattr(extract, "open_graph", lambda work, name: None)
    monkeypatch.setattr(extract, "speech_tokens", lambda tokenizer, feats: np.array([1, 2]))
    for source in SOURCES:
        save_arrays(tmp_path, f"mels_{source}", {})
        save_arrays(tmp_path, f"logmels_{source}", {source: np.zeros(1)})
    extract.build(tmp_path)
    assert tokenizer_of(tmp_path) == file_fingerprint(tmp_path / SPEECH_TOKENIZER)
    assert list(load_tokens(tmp_path)) == list(SOURCES)


def test_a_part_without_a_state_stays_as_shipped(tmp_path):
    for part in ("llm", "flow", "hift"):
        kept, shipped = export.part_state(tmp_path, part), load_state_dict_file(MODEL_DIR / f"{part}.pt")
        assert kept.keys() == shipped.keys() and all(torch.equal(kept[key], shipped[key]) for key in kept)


@pytest.mark.parametrize("ships", [True, False])
def test_the_pitch_predictor_comes_from_its_own_stage(ships, tmp_path, monkeypatch):
    model = mini_config().build("hift", device="cpu")
    with torch.no_grad():
        model.f0_predictor.classifier.bias.fill_(7.0)
    Progress(tmp_path, "f0", minutes=1.0).checkpoint({"model": model.f0_predictor})
    if not ships:
        monkeypatch.setattr(export, "MODEL_DIR", tmp_path)
    state = export.part_state(tmp_path, "hift")
    assert state.keys() == model.state_dict().keys() and float(state["f0_predictor.classifier.bias"]) == 7.0


def test_a_package_that_was_half_unpacked_is_unpacked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "RU_VOICES", Path("voices"))  # not installed under this name
    failing = [True, False]

    def run(command, check, cwd=None):
        """apt-get and dpkg; the first time dpkg ends midway."""
        if command[0] == "apt-get":
            (cwd / "festvox-ru_1.deb").touch()
            return
        (Path(command[-1]) / "voices" / "wav").mkdir(parents=True, exist_ok=True)
        if failing.pop(0):
            raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    with pytest.raises(UserError, match="festvox-ru was not unpacked .*; try again, or apt-get install festvox-ru"):
        corpus.russian_folder(tmp_path)
    assert (corpus.russian_folder(tmp_path) / "wav").is_dir() and not failing
    assert corpus.russian_folder(tmp_path) == tmp_path / "packages" / "festvox-ru" / "voices"  # nothing is run for it


def test_noise_does_not_begin_again_with_every_start(tmp_path):
    drawn = []
    for step in (7, 8, 7):
        Progress(tmp_path, "flow", minutes=1.0, step=step).checkpoint({})
        torch.manual_seed(SEED)  # as the build does before each stage
        Progress(tmp_path, "flow", minutes=1.0).resume({})
        drawn.append(torch.rand(()))
    assert drawn[0] != drawn[1] and drawn[0] == drawn[2]


def test_two_processes_may_write_the_same_file(tmp_path, monkeypatch):
    path = tmp_path / "graph.onnx"

    def write(part: Path) -> None:
        """Another process writes the same file while this one is at it."""
        part.write_text("half")
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: 0)
            write_text(path, "theirs")
        assert path.read_text() == "theirs" and part.read_text() == "half"
        part.write_text("ours")

    replace_file(path, write)
    assert path.read_text() == "ours" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path):
    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    write_text(tmp_path / "rows.json", "old")
    with pytest.raises(UserError, match="cannot write .*rows.json: No space left on device"):
        replace_file(tmp_path / "rows.json", fail)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    with pytest.raises(UserError, match="cannot write .*rows.json/more"):  # which is no folder
        write_text(tmp_path / "rows.json" / "more" / "x.json", "new")


def exit_code(work: Path, stage: str) -> int:
    """Of the command that runs one stage."""
    return build.main(["--stage", stage, "--work-dir", str(work), "--threads", "1"])


@pytest.mark.parametrize("stage", ["corpus", "readings"])
def test_a_program_that_is_not_installed_is_named(stage, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert exit_code(tmp_path, stage) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: not installed here: flite") and "; run: apt-get install flite" in error


@pytest.mark.parametrize(
    "stage, file, maker",
    [
        ("features", "corpus.jsonl", "corpus"),
        ("speaker", "banks.npz", "features"),
        ("acoustics", "logmels_corpus.npz", "features"),
        ("extract", "mels_corpus.npz", "acoustics"),
        ("flow", "tokens.npz", "extract"),
    ],
)
def test_a_missing_file_is_told_with_the_stage_that_makes_it(stage, file, maker, tmp_path, capsys):
    assert exit_code(tmp_path, stage) == 2
    assert f"{file} is missing; run: python -m build_mini.build --stage {maker}\n" in capsys.readouterr().err


def test_every_manifest_is_told_with_its_own_stage(tmp_path):
    for name, maker in (("espeak", "corpus"), ("natural", "natural"), (READINGS, "readings")):
        with pytest.raises(UserError, match=f"{name}.jsonl is missing; run: .* --stage {maker}$"):
            read_manifest(tmp_path, name)


def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch, capsys):
    def missing(work: Path) -> None:
        raise ModuleNotFoundError("No module named 'voices'", name="voices")

    monkeypatch.setattr(import_module(STAGES["natural"]), "build", missing)
    assert exit_code(tmp_path, "natural") == 2
    assert "stage natural: voices is not installed; run: python -m pip" in capsys.readouterr().err


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_build_with_its_own_code(number, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(import_module(STAGES["natural"]), "build", lambda work: os.kill(os.getpid(), number))
    assert exit_code(tmp_path, "natural") == code
    assert f"stopped by {number.name}; the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("hz", [100.0, 300.0])
def test_pitch_is_told_for_each_mel_frame(hz):
    time = torch.arange(2 * MEL_RATE) / MEL_RATE
    buzz = sum(0.1 / k * torch.sin(2 * torch.pi * k * hz * time) for k in range(1, 6))
    buzz[: len(buzz) // 2] = 0.0
    track = mel_frame_pitch(buzz[None])[0]
    assert len(track) == len(buzz) // MEL_HOP
    assert track[: len(track) // 2 - 5].tolist() == [0.0] * (len(track) // 2 - 5)
    later = track[len(track) // 2 + 5 : -5]
    assert later.tolist() == pytest.approx([hz] * len(later), rel=0.02)
