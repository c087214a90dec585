"""Ways to spoil yaml, parquet, npz, ONNX and sound files; each says in words what it did."""

import io
import re
import shutil
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from clip_folder import RATE, voice
from onnx import TensorProto, helper, numpy_helper

from dataset import META_KEY, SCHEMA

from . import mutations

# ---- yaml ------------------------------------------------------------------------------------------------------------

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefghi", "bcdefghij", strict=True)
)
YAML_LINES = (
    BOMB, "x: &x [*x]\n", "x: &x {y: *x}\n", "<<: &m {<<: *m}\n", "\0\n", "\tx: 1\n",
    "x: !!python/object/apply:os.system [a]\n",
    "x: !apply:os.system ['touch ../evil']\n", "x: !name:torchaudio.functional.pitch_shift\n",
    "x: !new:torch.nn.Linear\n",
    "? [a, b]\n: 1\n", "--- \nx: 1\n", "%TAG ! tag:x,1:\n---\n", "x: " + "[" * 3000 + "\n",
    "x: " + "9" * 20_000 + "\n", "x: 'open\n",
    "x: !ref <llm>\n", "x: !include:/etc/passwd\n", "x: 2024-13-45\n", "x: !!binary x\n", "x: 1:2:3:4\n", "llm: 1\n",
    "1: 2\n", "null: 1\n",
)  # fmt: skip
YAML_VALUES = (
    "0", "-1", "100000", "1000000000", "99999999999999999999", "1.5", ".nan", ".inf", "1e999", "null", "true", "[]",
    "{}", "''", "'x'",
    "x" * 50_000, "[1, 2]", "!ref <llm>", "!ref <sample_rate>", "!new:os.system", "!apply:os.system [x]",
    "!tuple (1, 2)", "../../evil",
    "\x1b[31m", '"\\e[31m"', '"a\\nb"', "'1'", "0x10", "-0.0", "3", "7", "!name:cosyvoice.utils.common.ras_sampling",
    "*x", "&x 1", "1024",
)  # fmt: skip


def spoil_yaml(rng: Random, text: str) -> tuple[str, str]:
    """A yaml with one of its lines changed."""
    lines = text.splitlines(keepends=True)
    settable = [i for i, line in enumerate(lines) if re.search(r": \S", line)]
    how = rng.random()
    if how < 0.55:
        at = rng.choice(settable)
        key, value = lines[at].split(": ", 1)[0], rng.choice(YAML_VALUES)
        lines[at] = f"{key}: {value}\n"
        return "".join(lines), f"{key.strip()}: {value[:60]}"
    if how < 0.75:
        line = rng.choice(YAML_LINES)
        lines.insert(rng.choice((0, rng.randrange(len(lines) + 1))), line)
        return "".join(lines), f"a line {line[:60]!r}"
    return mutations.spoil_lines(rng, text)


def write_spoiled_yaml(rng: Random, path: Path, text: str) -> str:
    text, what = spoil_yaml(rng, text)
    path.write_text(text, encoding="utf-8", errors="replace", newline="")
    how = rng.random()
    if how < 0.1:
        path.write_bytes(mutations.encoded(rng, text)[0])
    if how > 0.9:
        what += ", " + mutations.spoil_bytes(rng, path)
    return f"{path.name}: {what}"


# ---- parquet ---------------------------------------------------------------------------------------------------------


def spoil_table(rng: Random, path: Path) -> str:
    """A column, a cell or the metadata of a shard made strange."""
    table = pq.read_table(path)
    name = rng.choice(table.column_names)
    at = table.column_names.index(name)
    rows = table.to_pylist()
    how = rng.choice(
        ("drop", "double", "type", "type", "null", "value", "value", "value", "metadata", "rows", "order", "schema")
    )
    if how == "drop":
        table = table.drop_columns([name])
    elif how == "double":
        table = table.append_column(name, table.column(rng.choice(table.column_names)))
    elif how == "type":
        kinds = [pa.string(), pa.float64(), pa.int8(), pa.bool_(), pa.binary(), pa.list_(pa.string()),
                 pa.list_(pa.float16()), pa.null(),
                 pa.large_list(pa.float64()), pa.list_(pa.list_(pa.int32())), pa.timestamp("ns"), pa.decimal128(38,
                                                                                                                2),
                                                                                                                pa.large_string(),
                 pa.struct([("a", pa.int32())]), pa.list_(pa.float32()), pa.list_(pa.int64()),
                 pa.dictionary(pa.int8(), pa.string())]  # fmt: skip
        kind = rng.choice(kinds)
        try:
            column = table.column(name).cast(kind)
        except (pa.ArrowException, NotImplementedError):
            column = pa.nulls(table.num_rows, kind)
        table, how = table.set_column(at, name, column), f"type {kind}"
    elif how in ("null", "value"):
        row, field = rng.choice(rows), SCHEMA.field(name)
        if how == "value":
            row[name], how = odd_cell(rng, row[name])
        else:
            row[name] = [*row[name][:-1], None] if isinstance(row[name], list) and rng.random() < 0.5 else None
        try:
            table = table.set_column(at, field, pa.array([each[name] for each in rows], field.type))
        except (pa.ArrowException, OverflowError, TypeError, ValueError, UnicodeError):
            table, how = table.slice(0, 1), "one row"
    elif how == "metadata":
        odd = (b"", b"{", b"[]", b"1", b"null", b"\xff", b'"x"', b"[" * 5000, b'{"text_token_size": "x"}',
               b'{"text_token_size": NaN}',
               b'{"extractors": 1}', b'{"extractors": {"campplus.onnx": []}}', b'{"text_normalizer": "../x"}',
               b'{"text_token_size": -1}',
               b'{"token_rate_hz": 1e999}', b'{"speech_token_size": null}', b'{"text_normalizer": {"a": 1}}',
               b"{" * 1000)  # fmt: skip
        value = rng.choice(odd)
        table, how = table.replace_schema_metadata({META_KEY: value}), f"metadata {value[:40]!r}"
    elif how == "rows":
        table = rng.choice((table.slice(0, 0), pa.concat_tables([table, table])))
    elif how == "order":
        table = table.select(table.column_names[::-1])
    else:
        table = pa.table({"x": [1]})
    pq.write_table(
        table, path, row_group_size=rng.choice((1, 2, 100)), compression=rng.choice(("snappy", "zstd", "none"))
    )
    return f"{path.name}: {name} {how}"


def odd_cell(rng: Random, value: object) -> tuple[object, str]:
    if isinstance(value, list):
        odd = {"empty": [], "NaN": [*value[:-1], float("nan")], "inf": [*value[:-1], float("inf")],
               "huge": [*value[:-1], 3e38],
               "short": value[:-1], "long": value * 20, "one": value[:1], "zeros": [0] * len(value), "negative": [-1,
                                                                                                                  *value[1:]],
               "large": [2**31 - 1, *value[1:]]}  # fmt: skip
        name = rng.choice(list(odd))
        cells = odd[name]
        return [int(x) if isinstance(value[0], int) and np.isfinite(x) else x for x in cells], name
    value = rng.choice(mutations.TEXTS if isinstance(value, str) else mutations.NUMBERS)
    return value, mutations.shown(value)


# ---- npz -------------------------------------------------------------------------------------------------------------


def npz(rng: Random, path: Path) -> str:
    """One array of an .npz file made strange."""
    with np.load(path) as file:
        arrays = dict(file)
    name = rng.choice(list(arrays))
    array = arrays[name]
    odd = {
        "empty": array[:0] if array.ndim else array,
        "NaN": np.full(array.shape, np.nan),
        "text": np.array(["x"]),
        "huge": np.full(array.shape, 1e300),
        "bytes": np.frombuffer(b"{not json", np.uint8),
        "one axis more": array[None],
        "json list": np.frombuffer(b"[1, 2]", np.uint8),
    }
    how = rng.choice([*odd, "gone"])
    if how == "gone":
        del arrays[name]
    else:
        arrays[name] = odd[how]
    file = io.BytesIO()
    np.savez(file, **arrays)
    path.write_bytes(file.getvalue())
    return f"{path.name}: {name} {how}"


# ---- ONNX ------------------------------------------------------------------------------------------------------------


def spoil_graph(rng: Random, path: Path) -> str:
    """A model that opens, perhaps, and gives something else."""
    model = onnx.load(path)
    graph, output = model.graph, model.graph.output[0].name
    how = rng.choice(
        ("opset", "constant", "constant", "constant", "loop", "cast", "output", "input", "external", "bomb", "drop")
    )
    values = {
        "NaN": np.full((1, 192), np.nan, np.float32), "inf": np.full((1, 192), np.inf, np.float32),
        "zeros": np.zeros((1, 192), np.float32),
        "short": np.ones((1, 3), np.float32), "empty": np.zeros((1, 0), np.float32), "scalar": np.float32(1),
        "text": np.array([["x"]]),
        "huge ids": np.full((1, 75), 2**40, np.int64), "negative": np.full((1, 75), -1, np.int64),
        "no ids": np.zeros((1, 0), np.int64),
        "deep": np.ones((1, 1, 1, 192), np.float32), "bool": np.ones((1, 75), bool), "float ids": np.full((1, 75),
                                                                                                          1.5,
                                                                                                          np.float32),
        "many": np.zeros((1, 10_000), np.int64),
    }  # fmt: skip
    if how == "opset":
        model.opset_import[0].version = rng.choice((0, 1, 5, 999, 2**31))
    elif how == "constant":
        name = rng.choice(list(values))
        array = values[name]
        tensor = (
            helper.make_tensor("c", TensorProto.STRING, (1, 1), [b"x"])
            if name == "text"
            else numpy_helper.from_array(np.asarray(array), "c")
        )
        graph.node.append(helper.make_node("Constant", [], ["odd"], value=tensor))
        del graph.output[:]
        graph.output.append(helper.make_tensor_value_info("odd", tensor.data_type, array.shape))
        how = f"constant {name}"
    elif how == "loop":
        info = helper.make_tensor_value_info
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Identity", ["x"], ["y"])],
            "body",
            [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("x", TensorProto.INT64, [])],
            [info("again", TensorProto.BOOL, []), info("y", TensorProto.INT64, [])],
        )
        constants = {"trips": np.array(2**62), "always": np.array(True), "start": np.array(0)}
        for name, array in constants.items():
            graph.node.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name)))
        graph.node.append(helper.make_node("Loop", ["trips", "always", "start"], ["end"], body=body))
        del graph.output[:]
        graph.output.append(helper.make_tensor_value_info("end", TensorProto.INT64, []))
    elif how == "cast":
        graph.node.append(helper.make_node("Cast", [output], ["odd"], to=rng.choice((1, 6, 7, 9, 10, 11))))
        graph.output[0].name = "odd"
        graph.output[0].type.CopyFrom(onnx.TypeProto())
    elif how == "output":
        graph.output[0].name = rng.choice(("missing", "", graph.input[0].name))
    elif how == "input":
        graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    elif how == "external" and graph.initializer:
        tensor = graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=rng.choice(("../raw/000.wav", "/etc/passwd", "x")))
    elif how == "bomb":
        graph.node.append(
            helper.make_node("Constant", [], ["size"], value=numpy_helper.from_array(np.array([2**20, 2**18]), "s"))
        )
        graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["odd"]))
        del graph.output[:]
        graph.output.append(helper.make_tensor_value_info("odd", TensorProto.FLOAT, None))
    elif len(graph.node):
        del graph.node[rng.randrange(len(graph.node))]
    path.write_bytes(model.SerializeToString())
    return f"{path.name}: {how}"


# ---- sounds ----------------------------------------------------------------------------------------------------------


def odd_wave(rng: Random, path: Path) -> str:
    """A sound that is written rightly, of odd numbers."""
    wave = voice(1.5, seed=5).astype(np.float64)
    factors = {
        "1e20": 1e20,
        "1e38": 1e38,
        "1e-30": 1e-30,
        "1e300": 1e300,
        "silence": 0,
        "as it is": 1,
        "10": 10,
        "minus": -1,
    }
    holes = {"NaN": np.nan, "inf": np.inf, "-inf": -np.inf, "1e20 once": 1e20, "3e38 once": 3e38, "1000 once": 1000.0}
    name = rng.choice([*factors, *holes, "empty", "one", "few", "dc", "square", "ramp", "all NaN"])
    if name in factors:
        wave = wave * factors[name]
    elif name in holes:
        wave[rng.randrange(len(wave))] = holes[name]
    else:
        wave = {"empty": wave[:0], "one": wave[:1], "few": wave[:200], "dc": wave * 0 + 0.5, "square": np.sign(wave),
                "ramp": np.linspace(-1, 1, len(wave)), "all NaN": wave * np.nan}[name]  # fmt: skip
    rate = rng.choice((RATE, RATE, 1, 100, 4000, 7999, 8000, 11025, 44100, 192000, 1_000_000, 2**31 - 1))
    channels, subtype = (
        rng.choice((1, 1, 2, 7, 64)),
        rng.choice(("FLOAT", "DOUBLE", "FLOAT", "PCM_16", "PCM_U8", "PCM_32", "ULAW")),
    )
    if subtype not in ("FLOAT", "DOUBLE"):
        wave = np.nan_to_num(wave).clip(-1, 1)  # the encoder itself crashes by more
    with np.errstate(all="ignore"):
        soundfile.write(path, np.repeat(wave[:, None], channels, 1), rate, subtype=subtype, format="WAV")
    return f"{path.name}: {name}, {rate} Hz, {channels} channels, {subtype}"


def spoil_sound(rng: Random, stem: Path) -> tuple[str, Path]:
    """(words, path) of a spoiled sound file of any kind."""
    if rng.random() < 0.5:
        path = stem.with_suffix(rng.choice((".wav", ".wav", ".wav", ".WAV", ".mp3", ".flac")))
        return odd_wave(rng, path), path
    source = rng.choice(sorted(Path("sounds").iterdir()))
    path = stem.with_suffix(rng.choice((source.suffix, source.suffix, source.suffix, ".wav", ".m4a")))
    shutil.copy(source, path)
    end = rng.choice((0.002, 0.02, 1.0))
    what = [mutations.spoil_bytes(rng, path, 0.0, end) for _ in range(rng.choice((1, 1, 2)))]
    return f"{source.name}, {', '.join(what)}", path
