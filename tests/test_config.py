"""config.py: what is shown is what runs, and every mistake is refused by name."""

import ast
import re

import pytest
from sources import OWN_FILES, ROOT

import config
from config import ConfigError, JointConfig, from_dict, load, to_dict

# The owner's own snippet; pasting it over the shipped dict must work and change nothing.
OWNERS_SNIPPET = {
    "training_mode": "joint",
    "llm_loss_weight": 2.0,
    "flow_loss_weight": 1.0,
    "llm_lora": {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.15},
    "flow_lora": {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05},
    "learning_rate": 2e-4,
    "max_epochs": 100,
    "batch_size": 1,
    "accumulate_grad_batches": 16,
}


def test_the_shipped_dict_is_the_defaults():
    assert load() == (JointConfig(), {})
    assert config.flatten(config.JOINT_TRAINING_CONFIG) == config.flatten(to_dict(JointConfig()))


def test_every_setting_is_explained_in_both_languages_and_fits_its_own_limits():
    for key, (_, item) in config.known_settings().items():
        english, chinese = config.help_of(item)
        assert english.isascii() and not chinese.isascii(), key
    defaults = config.flatten(to_dict(JointConfig()))
    assert load(f"{key}={value!r}" for key, value in defaults.items())[0] == JointConfig()


def test_the_owners_snippet_can_be_pasted(monkeypatch):
    monkeypatch.setattr(config, "JOINT_TRAINING_CONFIG", OWNERS_SNIPPET)
    assert load() == (JointConfig(), {})


def test_later_sources_win_and_are_named(monkeypatch):
    monkeypatch.setattr(config, "JOINT_TRAINING_CONFIG", {"max_epochs": 7, "stop": {"patience": 3}})
    resolved, sources = load(["max_epochs=9", "max_epochs=11"], {"max_epochs": 5, "stop": {"llm_loss": 2.5}})
    assert (resolved.max_epochs, resolved.stop.patience, resolved.stop.llm_loss) == (11, 3, 2.5)
    assert sources == {
        "max_epochs": "command line",
        "stop.patience": "config.py",
        "stop.llm_loss": "finetune.yaml",
    }


@pytest.mark.parametrize(("word", "value"), [("true", True), ("FALSE", False), ("True", True)])
def test_yes_and_no_are_understood_as_python_and_yaml_write_them(word, value):
    assert load([f"gradient_checkpointing={word}"])[0].gradient_checkpointing is value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora_r=4", r"unknown key 'lora_r' \(did you mean 'llm_lora.lora_r'\?\)"),
        ("llm_lora.lora_r=0", "llm_lora.lora_r = 0: must be between 1 and 1024"),
        ("llm_lora.lora_r=1.5", "must be a whole number"),
        ("batch_size=True", "must be a whole number"),
        ("learning_rate=1e999", "must be between 1e-09 and 1"),
        ("learning_rate=0", "learning_rate = 0: must be between 1e-09 and 1"),
        ("learning_rate=fast", "must be a number"),
        ("stop.rule=all", "must be one of each, any"),
        ("training_mode=both", "must be one of joint, llm_only, flow_only"),
        ("flow_lora.target_modules=[]", "at least one"),
        ("flow_lora.target_modules=to_q", "must be a list of module names"),
        ("validation_clips=some", "must be one of auto or a number"),
        ("gradient_checkpointing=sometimes", "must be one of True, False, auto"),
        ("batch_size=true", "must be a whole number"),
        ("max_epochs", "write it as key=value"),
        ("inference.min_token_text_ratio=30", "must be smaller than"),
    ],
)
def test_a_bad_setting_is_refused_by_name(override, message):
    with pytest.raises(ConfigError, match=message):
        load([override])


def test_all_problems_of_a_source_are_listed_together():
    with pytest.raises(ConfigError, match="model/finetune.yaml: .*max_epoch.*; .*seed"):
        load([], {"max_epoch": 3, "seed": -1}, model_source="model/finetune.yaml")


def test_stored_settings_come_back_equal():
    resolved = load(["flow_lora.target_modules=['to_q']", "stop.flow_loss=0.7"])[0]
    assert from_dict(to_dict(resolved), "x.ckpt") == resolved


def test_every_key_is_read_somewhere():
    sources = [path for path in OWN_FILES if path.name != "config.py"]
    read = {
        node.attr
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    read |= set(re.findall(r"def (threshold|trained_parts)", (ROOT / "config.py").read_text(encoding="utf-8")))
    leaves = {key.rsplit(".", 1)[-1] for key in config.flatten(to_dict(JointConfig()))} - {"training_mode"}
    assert leaves - read == set()
