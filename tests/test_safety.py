"""Files from strangers run nothing: a yaml that names callables, a pickle that calls os.system."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from make_standin_model import TINY, model_yaml

from cosyvoice.utils.weights import load_spk2info, load_state_dict_file
from cosyvoice.utils.yaml_loader import read_model_config

TINY_YAML = model_yaml(TINY)
REFUSED = "could run code"


def assert_refused(directory: Path, text: str, *named: str) -> None:
    """Reading `text` raises one line that names the file and everything in `named`, and leaves no marker file."""
    path = directory / "cosyvoice.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as error:
        read_model_config(directory)
    message = str(error.value)
    assert "\n" not in message and all(name in message for name in (str(path), *named)), message
    assert not (directory / "marker").exists()


def with_value(text: str, key: str, tag: str) -> str:
    """A yaml text with a tag in place of a plain value of a top-level section, or inside the section."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
    place = start if ": !" not in lines[start] else start + 1
    lines[place] = f"{lines[place].partition(':')[0]}: {tag}"
    return "\n".join(lines)


def touch(directory: Path) -> str:
    """A shell command that leaves a marker file."""
    return f"touch {directory / 'marker'}"


@pytest.mark.parametrize("kind", ["!new", "!apply", "!applyref", "!module", "!include"])
@pytest.mark.parametrize("name", ["os.system", "subprocess.run", "builtins.eval", "torch.hub.load"])
def test_a_callable_of_another_package_is_refused_at_the_top_level(tmp_path: Path, kind: str, name: str):
    assert_refused(tmp_path, f"extra: {kind}:{name} ['{touch(tmp_path)}']\n{TINY_YAML}", "'extra'", kind, name, REFUSED)


@pytest.mark.parametrize("kind", ["!new", "!apply"])
def test_a_callable_deep_inside_a_section_that_is_not_built_is_refused(tmp_path: Path, kind: str):
    text = TINY_YAML.replace("lr: 0.001", f"lr: [1, {{x: [{kind}:os.system ['{touch(tmp_path)}']]}}]")
    assert_refused(tmp_path, text, "'train_conf.optim_conf.lr[1].x[0]'", f"{kind}:os.system", REFUSED)


def test_a_callable_inside_a_section_that_is_built_is_refused(tmp_path: Path):
    text = TINY_YAML.replace("act_fn: 'gelu'", f"act_fn: !apply:os.system ['{touch(tmp_path)}']")
    assert_refused(tmp_path, text, "'flow.decoder.estimator.act_fn'", "!apply:os.system", REFUSED)


@pytest.mark.parametrize("kind", ["!new", "!apply"])
def test_a_name_in_a_section_that_is_not_built_hides_nothing(tmp_path: Path, kind: str):
    text = f"extra: !name:os.system\n    command: {kind}:os.system ['{touch(tmp_path)}']\n{TINY_YAML}"
    assert_refused(tmp_path, text, "'extra.command'", f"{kind}:os.system", REFUSED)


@pytest.mark.parametrize("name", ["os.system", "torch.hub.load", "builtins.eval"])
def test_a_name_in_a_section_that_is_not_built_is_never_looked_up(tmp_path: Path, name: str):
    text = f"extra: !name:{name}\n    command: '{touch(tmp_path)}'\n{TINY_YAML}"
    (tmp_path / "cosyvoice.yaml").write_text(text, encoding="utf-8")
    config = read_model_config(tmp_path)
    assert not any(f"!name:{name}" in section for section in config.sections.values())
    config.build("llm")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("key", ["llm", "flow", "hift", "get_tokenizer", "feat_extractor", "sample_rate"])
def test_a_name_in_a_section_that_is_built_is_refused(tmp_path: Path, key: str):
    assert_refused(tmp_path, with_value(TINY_YAML, key, "!name:os.system"), f"'{key}", "!name:os.system", REFUSED)


def test_a_name_that_a_section_that_is_built_shares_is_refused(tmp_path: Path):
    text = TINY_YAML.replace("lsm_weight: 0", "lsm_weight: &x !name:os.system\n") + "extra: *x\n"
    assert_refused(tmp_path, text, "!name:os.system", REFUSED)


def test_a_reference_does_not_reach_a_name_in_a_section_that_is_not_built(tmp_path: Path):
    text = "extra: !name:os.system\n" + TINY_YAML.replace("lsm_weight: 0", "lsm_weight: !ref <extra>")
    assert_refused(tmp_path, text, "'llm.lsm_weight'", "must name one plain top-level value")


def test_a_callable_as_a_key_is_refused(tmp_path: Path):
    assert_refused(tmp_path, f"? !apply:os.system ['{touch(tmp_path)}']\n: 1\n{TINY_YAML}", "!apply:os.system", REFUSED)


@pytest.mark.parametrize(
    "value",
    [
        "!<!apply:os.system> ['{}']",  # the verbatim form of a tag
        "!apply:os%2Esystem ['{}']",
        "!!python/object/apply:os.system ['{}']",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
        "!PLACEHOLDER",
        "!include:/etc/passwd",
        "!copy <llm>",
        "!tuple (1, 2)",
        "!apply:random.seed ['{}']",  # allowed only at __set_seed1..4
        "!new:omegaconf.OmegaConf {{content: {{a: 1}}}}",
        "!new:omegaconf.DictConfig {{content: {{a: 1}}, flags: {{b: 1}}}}",
        "!new:cosyvoice {{}}",
        "!new:cosyvoices.evil.Thing {{}}",
        "!module:cosyvoice.utils.common",
    ],
)
def test_other_ways_to_write_it_are_refused(tmp_path: Path, value: str):
    assert_refused(tmp_path, f"extra: {value.format(touch(tmp_path))}\n{TINY_YAML}", "'extra'", "not allowed")


def test_a_tag_handle_does_not_hide_the_name(tmp_path: Path):
    text = f"%TAG !e! !apply:os.\n---\nextra: !e!system ['{touch(tmp_path)}']\n{TINY_YAML}"
    assert_refused(tmp_path, text, "!apply:os.system", REFUSED)


def test_a_seed_line_hides_nothing(tmp_path: Path):
    text = TINY_YAML.replace(
        "!apply:random.seed [1986]", f"!apply:random.seed [!apply:os.system ['{touch(tmp_path)}']]"
    )
    assert_refused(tmp_path, text, "'__set_seed1[0]'", "!apply:os.system")
    assert_refused(tmp_path, TINY_YAML.replace("!apply:random.seed", "!apply:os.system"), "'__set_seed1'")


def test_a_name_inside_our_packages_that_is_not_in_the_table_is_not_built(tmp_path: Path):
    text = TINY_YAML.replace("!name:cosyvoice.utils.common.ras_sampling", "!name:cosyvoice.utils.common.np.save")
    assert_refused(tmp_path, text, "'llm.sampling'", "!name:cosyvoice.utils.common.np.save")


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_python_tags_inside_parentheses_do_not_run(tmp_path: Path, quote: str):
    value = f"(!!python/object/apply:os.system [{touch(tmp_path)}])"
    text = TINY_YAML.replace("solver: 'euler'", f"solver: {quote}{value}{quote}")
    (tmp_path / "cosyvoice.yaml").write_text(text, encoding="utf-8")
    for _ in range(2):  # what one load leaves behind must not change the next
        with pytest.raises(ValueError, match="solver '(.*os.system.*)' is not supported"):
            read_model_config(tmp_path).build("flow")
    assert not (tmp_path / "marker").exists()


def test_the_marker_would_be_left_if_hyperpyyaml_read_such_a_text_alone(tmp_path: Path):
    text = f"a: '(!!python/object/apply:os.system [{touch(tmp_path)}])'"
    code = "import sys, hyperpyyaml; hyperpyyaml.load_hyperpyyaml(sys.argv[1])"  # apart: it changes ruamel for good
    subprocess.run([sys.executable, "-c", code, text], check=True)
    assert (tmp_path / "marker").exists()


def test_a_reference_cannot_calculate_or_reach_attributes(tmp_path: Path):
    for value in ("!ref <sample_rate> ** 99 ** 99", "!ref <llm.__class__>", "!ref <llm[text_token_size]>"):
        text = TINY_YAML.replace("lsm_weight: 0", f"lsm_weight: {value}")
        assert_refused(tmp_path, text, "'llm.lsm_weight'", "must name one plain top-level value")


def test_a_reference_to_text_with_another_reference_is_refused(tmp_path: Path):
    text = "bomb: '<sample_rate> ** 99 ** 99'\n" + TINY_YAML.replace("lsm_weight: 0", "lsm_weight: !ref <bomb>")
    assert_refused(tmp_path, text, "'llm.lsm_weight'")


def test_reading_a_yaml_imports_nothing_that_it_names(tmp_path: Path):
    text = TINY_YAML + "extra: !new:torchaudio.transforms.no_such_thing.Here {}\n"
    (tmp_path / "cosyvoice.yaml").write_text(text, encoding="utf-8")
    read_model_config(tmp_path)
    assert not any("no_such_thing" in name or name.startswith("omegaconf") for name in sys.modules)


def test_the_seeds_of_a_yaml_are_not_set(tmp_path: Path):
    (tmp_path / "cosyvoice.yaml").write_text(TINY_YAML, encoding="utf-8")
    torch.manual_seed(5)
    read_model_config(tmp_path).build("hift", device="cpu")
    assert torch.initial_seed() == 5


class RunsACommand:
    """Pickles as a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("reader", [load_state_dict_file, load_spk2info])
def test_a_pickle_that_would_run_a_command_is_refused(tmp_path: Path, reader: object, legacy: bool):
    path = tmp_path / "llm.pt"
    content = {"weight": torch.zeros(2), "x": RunsACommand(touch(tmp_path))}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="could run code") as error:
        reader(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "marker").exists()


def test_a_bare_pickle_that_would_run_a_command_is_refused(tmp_path: Path):
    path = tmp_path / "llm.pt"
    path.write_bytes(pickle.dumps(RunsACommand(touch(tmp_path)), protocol=2))
    with pytest.raises(ValueError, match="llm.pt"):
        load_state_dict_file(path)
    assert not (tmp_path / "marker").exists()


def test_the_marker_would_be_left_if_a_pickle_did_run(tmp_path: Path):
    pickle.loads(pickle.dumps(RunsACommand(touch(tmp_path))))
    assert (tmp_path / "marker").exists()
