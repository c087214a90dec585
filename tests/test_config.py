"""config.py: what is shown is what runs, and every mistake is refused by name."""

import ast
import re
from itertools import pairwise

import pytest
from sources import OWN_FILES, ROOT

import config
from config import ConfigError, JointConfig, UserError, from_dict, load, to_dict
from utils import read_settings

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
        ("speaker_name=' '", "must not be empty"),
        ("flow_lora.target_modules=['to_q', 1]", "must be a list of module names"),
        ("stop={'patience': 3}", "unknown key 'stop'"),
        ("inference.min_token_text_ratio=30", "must be smaller than"),
    ],
)
def test_a_bad_setting_is_refused_by_name(override, message):
    with pytest.raises(ConfigError, match=message):
        load([override])


ODD = [
    "[" * 150 + "]" * 150,
    "[" * 9000,
    "(" * 100_000 + ")" * 100_000,
    "-" * 9000 + "1",
    "{[1]}",
    "{[1]: 2}",
    "{1: {2: {3: {4: {5: 6}}}}}",
    "9" * 5000,
    "-" + "9" * 5000,
    "0x" + "f" * 9000,
    "1e99999",
    "1+2j",
    "b'x'",
    "None",
    "...",
    "{1, 2}",
    "\0",
    "a\0b",
    "'a\\nb'",
    "'\\x1b[2J'",
    "\udc80",
    "'\\ud800'",
    "'\\u2028'",
    "x" * 100_000,
    "1if 2else 3",
    "lambda: 1",
    "f'{1}'",
    "()",
    "[[]]",
    "[['to_q']]",
]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("key", ["max_epochs", "speaker_name", "flow_lora.target_modules", "learning_rate"])
def test_odd_values_are_refused_in_one_line(key, value, recwarn):
    try:
        resolved, _ = load([f"{key}={value}"])
    except ConfigError as error:
        assert key in str(error) and "\n" not in str(error) and len(str(error)) < 400
        str(error).encode()
    else:  # as a name some of them will do
        assert key == "speaker_name" and resolved.speaker_name.isprintable() and len(resolved.speaker_name) <= 100
    assert not recwarn


@pytest.mark.parametrize("key", ["a\nb", "\udc80", "x" * 10_000, "a" + ".b" * 5000])
def test_an_odd_key_is_refused_in_one_line(key):
    with pytest.raises(ConfigError, match="unknown key") as error:
        load([f"{key}=1"])
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    str(error.value).encode()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghijklmnop")
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "stop: &a {patience: *a}",
        "&a [*a]",
        "stop: &a {llm_loss: 1}\nnow: *a",
        "stop: " + "{stop: " * 50 + "1" + "}" * 50,
        "max_epochs: " + "[" * 400 + "]" * 400,
        "max_epochs: " + "9" * 5000,
        "max_epochs: !!python/object/apply:os.system [true]",
        "max_epochs: !!timestamp 2024-99-99",
        "max_epochs: 2024-01-01",
        "max_epochs: !!set {1, 2}",
        "max_epochs: !!binary aGVsbG8=",
        "max_epochs: .nan",
        'speaker_name: "a\\nb"',
        'speaker_name: "\\ud800"',
        "? [a, b]\n: 1",
        "? {a: b}\n: 1",
        "1: 2",
        "null: 1",
        "a: 1\na: 2",
        "- 1",
        "\0",
        "# " + "x" * 100_000,
    ],
)
def test_a_finetune_yaml_that_is_no_plain_settings_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "finetune.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="finetune.yaml") as error:
        read_settings([], tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


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
