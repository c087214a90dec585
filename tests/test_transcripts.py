"""Transcripts as people bring them: where they are found, how they are read, and what shows that they are wrong."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from clip_folder import SENTENCES, voice, write_clip

from clips import audio_doctor
from clips.audio_doctor import FLAGS, Finding, check_texts
from clips.find import find_clips
from clips.transcripts import read_text
from config import UserError
from prepare_joint_data import main
from text.languages import digits_in_english, script

SOUND = voice(0.5)
NAMES = [f"{number:03}" for number in range(1, len(SENTENCES) + 1)]


def recordings(folder: Path, names: Sequence[str] = NAMES) -> None:
    """Short sounds without texts."""
    for name in names:
        write_clip(folder, f"{name}.wav", None, SOUND)


def texts_in(folder: Path) -> list[str | None]:
    return [clip.text for clip in find_clips(folder)[0]]


# ---- files beside the audio ------------------------------------------------------------------------------------------


def test_texts_of_windows_editors_are_read(tmp_path):
    write_clip(tmp_path, "a.wav", None)
    (tmp_path / "a.TXT").write_bytes("\ufeff床前明月光，\r\n疑是地上霜。\r\n".encode())
    assert find_clips(tmp_path)[0][0].text == "床前明月光， 疑是地上霜。"


def test_a_text_is_found_under_either_spelling_of_its_name(tmp_path):
    write_clip(tmp_path, "\u00e9/\u00e91.wav", None)
    write_clip(tmp_path, "\u00e92.wav", "one character")
    write_clip(tmp_path, "e\u03012.wav", "two characters")
    if len(list(tmp_path.glob("*2.wav"))) == 1:
        pytest.skip("this file system takes both spellings for one name")
    write_clip(tmp_path, "\u00e93.wav", "of this spelling only")
    write_clip(tmp_path, "e\u03013.wav", None)
    (tmp_path / "\u00e9/e\u03011.txt").write_text("from a Mac")
    texts = {clip.name: clip.text for clip in find_clips(tmp_path)[0]}
    assert texts == {
        "\u00e9/\u00e91": "from a Mac",
        "\u00e92": "one character",
        "e\u03012": "two characters",
        "\u00e93": "of this spelling only",
        "e\u03013": None,
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("hello".encode("utf-16-le"), "not UTF-8 .looks like UTF-16"),  # without its mark
        ("hello".encode("utf-32"), "UTF-32"),
        ("one\nhello".encode("utf-16")[:-1], "not UTF-16"),
        ("one\n床前".encode("gbk"), "line 2 is not UTF-8"),
        ("one\ncafé".encode("cp1252"), "line 2 is not UTF-8 .may be .*Windows-1252"),
    ],
)
def test_a_text_in_another_encoding_is_refused_as_such(tmp_path, data, message):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path / "a.txt")


SRT = """1
00:00:00,100 --> 00:00:01,000
<i>One</i> and
two,

2
00:00:01,000 --> 00:00:02,500
three.
"""
VTT = """WEBVTT

NOTE by hand
and foot

00:00.100 --> 00:01.000 align:start
<v Anna>One and

2
00:01.000 --> 00:02.500
two, three.
"""
AUDACITY = "0.100000\t1.000000\tOne and\n\\\t100.0\t4000.0\n1.000000\t2.500000\ttwo, three.\n"


@pytest.mark.parametrize(
    ("name", "content", "timed"),
    [
        ("a.txt", "One and\n two,\tthree.\n", False),
        ("a.lab", "\ufeffOne and two, three.\r\n", False),
        ("a.srt", SRT.replace("\n", "\r\n"), False),
        ("a.VTT", VTT, False),
        ("a.txt", AUDACITY, True),
        ("a.lab", AUDACITY, True),
        ("a.txt", AUDACITY.replace(".1", ",1"), True),
        ("a.txt", SRT, True),
        ("a.txt", "[00:00.100 --> 00:01.000]  One and\n[00:01.000 --> 00:02.500]  two, three.\n", True),
        ("a.txt", "[00:00.10]One and\n[00:01.00]two, three.\n", True),
        ("a.txt", "00:00:00 One and two, three.", True),
        ("a.txt", "00:00:00,100 - 00:00:02,500: One and two, three.", True),
        ("a.txt", "[0:05] One and\ntwo,\n[0:07] three.\n", True),
        ("a.txt", "(01:12:33) One and two,\n01:12:35:09 three.\n", True),
        ("a.txt", "0.10 1.00 One and\n1.00 2.50 two, three.\n", True),
    ],
)
def test_a_text_is_read_from_each_kind_of_file_without_its_times(tmp_path, name, content, timed):
    recordings(tmp_path, ["a"])
    (tmp_path / name).write_bytes(content.encode())
    [clip] = find_clips(tmp_path)[0]
    assert clip.text == "One and two, three."
    assert list(clip.flags) == ["timed_text"] * timed


@pytest.mark.parametrize(
    "text",
    [
        "10:30 is when the train leaves",
        "It left\n00:00:10 later",
        "1:02:03 was her time",
        "00:00:00:00:00 is an address",
        "2.5 million people",
        "10 12 and 14 are even",
        "12\nmonkeys",
        "(8:05) or so",
        "Oh! --> there",
    ],
)
def test_numbers_of_a_sentence_are_no_times(tmp_path, text):
    recordings(tmp_path, ["a"])
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    [clip] = find_clips(tmp_path)[0]
    assert (clip.text, clip.flags) == (" ".join(text.split()), {})


@pytest.mark.parametrize(
    "lab",
    [
        "0 400000 sil\n400000 900000 hh\n900000 1500000 ax\n",
        "#\n0.12 26 pau\n0.25 26 hh\n0.31 26 ax\n",
        "x^x-sil+hh=ax@x_x/A:0\nx^sil-hh+ax=l@1_2/A:0\n",
        "sil\nhh\nax\nl\now\nsil\n",
        "sil HH AH0 L OW1 sil",
    ],
)
def test_a_lab_file_of_sounds_is_named_and_the_next_source_used(tmp_path, lab):
    recordings(tmp_path, ["a", "b"])
    for name in "ab":
        (tmp_path / f"{name}.lab").write_text(lab, encoding="utf-8")
    (tmp_path / "metadata.csv").write_text("b|a text", encoding="utf-8")
    clips, notes = find_clips(tmp_path)
    assert [(clip.text, list(clip.flags)) for clip in clips] == [(None, ["missing_text"]), ("a text", [])]
    assert "a.lab" in clips[0].flags["missing_text"]["text_problem"]
    assert len(notes) == 1 and notes[0].startswith("a.lab, b.lab are not read, because ")


@pytest.mark.parametrize("lab", ["THE CAT SAT ON A MAT", "一 二 三 四", "ja ja ja so"])
def test_a_lab_file_of_words_is_a_text(tmp_path, lab):
    recordings(tmp_path, ["a"])
    (tmp_path / "a.lab").write_text(lab, encoding="utf-8")
    assert texts_in(tmp_path) == [lab]


@pytest.mark.parametrize("name", ["a.json", "a.TextGrid", "script.docx", "transcripts.csv"])
def test_what_may_hold_texts_and_is_not_understood_is_named(tmp_path, name):
    write_clip(tmp_path, "a.wav", "the text")
    for other in (name, "cover.jpg", "fixed.json"):
        (tmp_path / other).touch()
    notes = find_clips(tmp_path)[1]
    assert len(notes) == 1 and notes[0].startswith(f"{name} is not read, because ")


def test_of_several_texts_the_first_kind_is_used_and_a_different_one_is_flagged(tmp_path):
    recordings(tmp_path, ["a", "b"])
    kinds = {"txt": "%s", "lab": "%s", "srt": "1\n0:00:00,0 --> 0:00:01,0\n%s\n", "vtt": "00:00.0 --> 00:01.0\n%s\n"}
    for number, (suffix, form) in enumerate(kinds.items()):
        (tmp_path / f"a.{suffix}").write_text(form % f"text {number}", encoding="utf-8")
        (tmp_path / f"b.{suffix}").write_text(form % ("Same, text", "SAME TEXT")[number % 2], encoding="utf-8")
    (tmp_path / "metadata.csv").write_text("a|text 4\nb|same text\n", encoding="utf-8")
    (tmp_path / "x.list").write_text("a.wav|s|en|text 5\n", encoding="utf-8")
    for used, other in [("a.txt", "a.lab"), ("a.lab", "a.srt"), ("a.srt", "a.vtt"), ("a.vtt", "metadata.csv")]:
        a, b = find_clips(tmp_path)[0]
        figures = a.flags["text_conflict"]
        assert (figures["used_file"], figures["other_file"], b.flags) == (used, other, {})
        (tmp_path / used).unlink()
    assert find_clips(tmp_path)[0][0].flags["text_conflict"]["other_file"] == "x.list"


# ---- tables ----------------------------------------------------------------------------------------------------------


def listed(folder: Path, *lines: str, name: str = "metadata.csv", end: str = "\r\n") -> dict[str, str | None]:
    """{clip: text} after these lines were written to folder/name."""
    (folder / name).write_bytes(end.join(lines).encode("utf-8-sig"))
    return {clip.name: clip.text for clip in find_clips(folder)[0]}


Line = Callable[[int, str, str], str]
READ: dict[str, tuple[str, Line]] = {  # header, line of a clip (number, name, text)
    "two columns": ("", lambda i, n, t: f"{n}|{t}"),
    "XTTS": ("audio_file|text|speaker_name", lambda i, n, t: f"wavs/{n}.wav|{t}|anna"),
    "duration after": ("wav|transcript|duration", lambda i, n, t: f"{n}.wav|{t}|{2.5 + i / 7:.3f}"),
    "duration before": ("duration;path;sentence", lambda i, n, t: f"{2.5 + i / 7:.3f};{n}.wav;{t}"),
    "duration, no header": ("", lambda i, n, t: f"{n}.wav|{2.5 + i / 7:.3f}|{t}"),
    "LJSpeech": ("", lambda i, n, t: f"{n}|{t.title()} 12|{t}"),
    "normalised by title": ("id|normalized_text|text", lambda i, n, t: f"{n}|{t}|{t.upper()}"),
    "list": ("", lambda i, n, t: f"/home/a/out/{n}.wav|anna|EN|{t}"),
    "list with sounds": ("", lambda i, n, t: f"raw/{n}.wav|anna|EN|{t}|HH AH L|0 0 1|3 2"),
    "speaker number": ("", lambda i, n, t: f"DUMMY/{n}.wav|0|{t}"),
    "Common Voice": ("client_id\tpath\tsentence\tage", lambda i, n, t: f"ab12cd\t{n}.mp3\t{t}\t"),
    "spreadsheet": ("File Name,Text,,", lambda i, n, t: f'{n}.wav,"{t}, {i}",,'),
    "Excel's line": ("sep=;", lambda i, n, t: f'"{n}.wav";"{t}"'),
    "text first": ("Text\tAudio", lambda i, n, t: f"{t}\t{n}.wav"),
    "numbered lines": ("index|file|text", lambda i, n, t: f"{i}|{n}.wav|{t}"),
    "Chinese titles": ("文件名,文本,说话人", lambda i, n, t: f'{n}.wav,"{t}",安娜'),
    "a mood": ("file|text|emotion", lambda i, n, t: f"{n}|{t}|{('calm', 'glad')[i % 2]}"),
    "quotation marks of the text": ("", lambda i, n, t: f'{n}|"{t}' if i % 3 else f'{n}|She said "{t}".'),
    "quotes around all": ("", lambda i, n, t: f'{n}|"{t} | ""{i}"""'),
    "lines within quotes": ("file,text", lambda i, n, t: f'{n},"{t},\nand more"'),
}
WANTED: dict[str, Callable[[int, str], str]] = {
    "spreadsheet": lambda i, t: f"{t}, {i}",
    "quotation marks of the text": lambda i, t: f'"{t}' if i % 3 else f'She said "{t}".',
    "quotes around all": lambda i, t: f'{t} | "{i}"',
    "lines within quotes": lambda i, t: f"{t}, and more",
}


def lines_of(header: str, line: Line, texts: Sequence[str] = SENTENCES) -> list[str]:
    rows = [line(i, name, text) for i, (name, text) in enumerate(zip(NAMES, texts, strict=True))]
    return [header, *rows] if header else rows


@pytest.mark.parametrize("kind", READ)
def test_the_right_column_of_a_table_is_read(tmp_path, kind):
    recordings(tmp_path)
    found = listed(tmp_path, *lines_of(*READ[kind]))
    wanted = WANTED.get(kind, lambda i, text: text)
    assert found == {name: wanted(i, SENTENCES[i]) for i, name in enumerate(NAMES)}
    assert not any(clip.flags for clip in find_clips(tmp_path)[0]) and find_clips(tmp_path)[1] == []


PEOPLE = ("anna", "ben")
REFUSED: dict[str, tuple[str, str, Line]] = {  # what the message names, header, line
    "a speaker as text": ("'text'", "file|text|said", lambda i, n, t: f"{n}|anna|{t}"),
    "numbers as text": ("'text'", "file|text", lambda i, n, t: f"{n}|{2 + i / 9:.2f}"),
    "paths as text": ("'text'", "wav|text", lambda i, n, t: f"{n}.wav|txt/{n}.txt"),
    "languages as text": ("'sentence'", "wav|sentence", lambda i, n, t: f"{n}.wav|{('en', 'de')[i % 2]}"),
    "codes as text": ("column 2", "", lambda i, n, t: f"{n}|LJ{i:03}-{i * 7:04}"),
    "a speaker alone": ("column 2", "", lambda i, n, t: f"{n}|anna"),
    "two speakers alone": ("'anna', 'ben'", "", lambda i, n, t: f"{n}|{PEOPLE[i % 2]}"),
    "no text": ("no column", "audio_file|speaker_name|duration", lambda i, n, t: f"{n}|anna|{i}.5"),
    "files alone": ("no column", "", lambda i, n, t: f"{n}.wav"),
    "two unlike texts": ("column 2", "", lambda i, n, t: f"{n}|{t}|{SENTENCES[i - 3]}"),
    "commas without quotes": ("quotes", "", lambda i, n, t: f"{n},{t}" + ", oh" * (i == 5)),
    "a line too short": ("line 6", "", lambda i, n, t: f"{n}|{t}" if i != 5 else f"{n} {t}"),
    "several speakers": (
        "'anna' (4), 'ben' (4)",
        "wav|text|speaker_name",
        lambda i, n, t: f"{n}|{t}|{('anna', 'ben')[i % 2]}",
    ),
    "several between": ("'anna' (4), 'ben' (4)", "", lambda i, n, t: f"{n}.wav|{PEOPLE[i % 2]}|{t}"),
    "audio paths as text": ("'sentence'", "wav|sentence", lambda i, n, t: f"{n}|wavs/{n}.wav"),
    "several in a list": ("'anna' (4), 'ben' (4)", "", lambda i, n, t: f"{n}|{PEOPLE[i % 2]}|en|{t}"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_table_that_would_give_wrong_texts_is_refused(tmp_path, kind):
    recordings(tmp_path)
    named, header, line = REFUSED[kind]
    with pytest.raises(UserError) as error:
        listed(tmp_path, *lines_of(header, line, [text.replace(", ", " ") for text in SENTENCES]))
    assert str(error.value).startswith(f"{tmp_path / 'metadata.csv'}: ") and named in str(error.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a|one", "b two"], "line 2"),
        (["a|Yes or | no.", "b|two"], "line 1"),
        (["a|one", "b|two", "a.wav|three"], "line 3: 'a.wav' has another text in line 1"),
        (["c|three"], "line 1: 'c' could be sub/c or tub/c; give the sub-folder"),
    ],
)
def test_a_wrong_line_of_a_table_is_named(tmp_path, lines, message):
    recordings(tmp_path, ["a", "b", "sub/c", "tub/c"])
    with pytest.raises(UserError, match=message):
        listed(tmp_path, *lines)


@pytest.mark.parametrize("name", ["Metadata.CSV", "metadata_train.csv", "metadata.tsv", "slicer_opt.list", "ESD.List"])
def test_tables_have_several_names(tmp_path, name):
    recordings(tmp_path, ["a"])
    assert listed(tmp_path, "a.wav|one", name=name) == {"a": "one"}


OTHER_TABLES = {
    "transcripts.csv": "file,text\na.wav,one\n",
    "validated.tsv": "path\tsentence\na.mp3\tone\n",
    "metadata.jsonl": '{"file_name": "wavs/a.wav", "text": "one"}\n\n{"text": "two", "file_name": "b.wav"}\n',
    "manifest.jsonl": '{"audio_filepath": "/x/a.wav", "duration": 1.5, "text": "one"}\n',
    "metadata.txt": "a|one\n",
    "transcript.txt": "a.wav\tone\n",
}


@pytest.mark.parametrize("name", OTHER_TABLES)
def test_a_table_of_another_name_is_read_where_it_alone_may_hold_the_texts(tmp_path, name):
    recordings(tmp_path, ["a"])
    (tmp_path / name).write_text(OTHER_TABLES[name], encoding="utf-8")
    assert texts_in(tmp_path) == ["one"]
    (tmp_path / "a.txt").write_text("its own", encoding="utf-8")
    assert texts_in(tmp_path) == ["its own"] and len(find_clips(tmp_path)[1]) == 1


@pytest.mark.parametrize("name", ["a.normalized.txt", "a.wav.txt", "a.MP3.TXT"])
def test_a_text_may_be_called_after_the_whole_name_of_its_recording(tmp_path, name):
    recordings(tmp_path, ["a"])
    (tmp_path / name).write_text("one", encoding="utf-8")
    assert texts_in(tmp_path) == ["one"] and find_clips(tmp_path)[1] == []


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"validated.tsv": "path\tsentence\na\tone", "train.tsv": "path\tsentence\na\tone"}, "metadata.csv"),
        ({"takes.csv": "take,length\n1,3.5"}, "takes.csv"),
        ({"script.xlsx": "PK"}, "script.xlsx"),
        ({"84/84-1.trans.txt": "a ONE\nb TWO\n"}, "84/84-1.trans.txt"),
        ({"readme.txt": "How it was recorded", "txt.done.data": '( a "one" )\n( b "two" )\n'}, "txt.done.data"),
        ({"text": "a one"}, "text"),
        ({"txt/a.txt": "one"}, "txt/a.txt lies in another folder than its recording"),
        ({"cover.jpg": ""}, "write it in a.txt"),
    ],
)
def test_where_no_recording_has_a_text_the_file_that_may_hold_them_is_named(tmp_path, files, named):
    recordings(tmp_path, ["a", "b"])
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    first = find_clips(tmp_path)[0][0]
    assert named in first.flags["missing_text"]["text_problem"]


def test_a_line_that_is_no_json_object_is_named(tmp_path):
    recordings(tmp_path, ["a"])
    with pytest.raises(UserError, match="metadata.jsonl: line 2 is no JSON object"):
        listed(tmp_path, '{"file": "a", "text": "one"}', '["b", "two"]', name="metadata.jsonl")


@pytest.mark.parametrize("folder", [".", "..", "sub"])
@pytest.mark.parametrize("cell", ["a", "wavs/a.wav"])
def test_a_table_may_lie_in_the_folder_in_a_sub_folder_or_above(tmp_path, folder, cell):
    raw = tmp_path / "wavs"
    recordings(raw, ["sub/a"])
    (raw / folder / "metadata.csv").write_text(f"{cell}|one\nelsewhere/b.wav|two\n", encoding="utf-8")
    assert texts_in(raw) == ["one"]


def test_another_persons_lines_do_not_matter_where_their_recordings_lie_elsewhere(tmp_path):
    recordings(tmp_path / "anna", ["a"])
    lines = "file|text|speaker\nanna/a.wav|one|anna\nben/b.wav|two|ben\n"
    (tmp_path / "metadata.csv").write_text(lines, encoding="utf-8")
    assert texts_in(tmp_path / "anna") == ["one"]


def test_a_line_about_an_existing_file_elsewhere_is_not_about_one_of_the_same_name(tmp_path):
    recordings(tmp_path, ["anna/001", "ben/001"])
    lines = f"ben/001.wav|from ben\n{tmp_path / 'anna/001.wav'}|from anna\n"
    (tmp_path / "metadata.csv").write_text(lines, encoding="utf-8")
    assert texts_in(tmp_path / "anna") == ["from anna"]


@pytest.mark.parametrize("content", [b"name,price\napple,3\n", "name,price\napple,3\n".encode("utf-16"), b""])
def test_what_lies_above_and_names_no_recording_does_not_matter(tmp_path, content):
    write_clip(tmp_path / "raw", "a.wav", "one", SOUND)
    (tmp_path / "metadata.csv").write_bytes(content)
    assert texts_in(tmp_path / "raw") == ["one"]


def test_the_nearest_table_counts(tmp_path):
    recordings(tmp_path / "raw", ["sub/a"])
    for folder, text in (("raw/sub", "near"), ("raw", "far"), (".", "above")):
        (tmp_path / folder / "metadata.csv").write_text(f"a|{text}\n", encoding="utf-8")
    [clip] = find_clips(tmp_path / "raw")[0]
    assert clip.text == "near" and clip.flags["text_conflict"]["other_text"] == "far"


def test_a_column_that_may_name_speakers_is_named(tmp_path):
    recordings(tmp_path)
    listed(tmp_path, *lines_of("", lambda i, n, t: f"{n}|{t}|{PEOPLE[i % 2]}"))
    notes = find_clips(tmp_path)[1]
    assert len(notes) == 1 and "'anna', 'ben'" in notes[0]


def test_of_many_lines_without_audio_some_are_named(tmp_path):
    recordings(tmp_path, ["a"])
    listed(tmp_path, "a|one", *(f"gone{i}|text {i}" for i in range(20)))
    notes = find_clips(tmp_path)[1]
    assert len(notes) == 5 and "15 more" in notes[-1]


def test_metadata_csv_names_clips_in_many_ways(tmp_path):
    for name in ("a.wav", "b.wav", "sub/c.wav", "sub/d.wav", "e.wav"):
        write_clip(tmp_path, name, None)
    texts = listed(tmp_path, "file|text", "a|one", "", "b.wav| two ", "sub\\c.wav|three", "d|four", "wavs/e.wav|five")
    assert texts == {"a": "one", "b": "two", "sub/c": "three", "sub/d": "four", "e": "five"}


@pytest.mark.parametrize(
    ("clips", "cells", "notes"),
    [
        (["clip_01.wav", "wavs/Clip_02.wav"], ["CLIP_01.WAV", "WAVS\\clip_02"], 0),
        (["a.wav", "A.wav"], ["a", "A.WAV"], 0),
        (["001.wav", "002.flac"], ["1", "2"], 1),
        (["wavs/1.wav", "wavs/2.wav"], ["1.0", "002.wav"], 1),
        (["sub/0007.ogg"], ["7,00"], 1),
        (["099.wav", "100.wav"], ["99", "100"], 1),
        (["wavs/s1/take.wav", "wavs/s2/take.wav"], ["s1/take.wav", "https://a.b/data/s2/take.wav?t=1/2"], 0),
        (["wavs/a/x/1.wav", "wavs/b/x/1.wav"], ["/home/me/a/x/1.wav", "C:\\b\\x\\1.wav"], 0),
        (["clip_01.wav", "wavs/b.wav"], ["https://a.b/c/clip_01.wav?sig=ab%2Fc&x=1", "https://a.b/b.mp3#t=3"], 0),
        (["my clip 1.wav", "é.flac"], ["file:///home/u/my%20clip%201.wav", "%C3%A9.wav"], 0),
        (["100%25.wav", "100%.wav"], ["100%25.wav", "100%.wav"], 0),
    ],
)
def test_a_recording_is_found_by_other_spellings_of_its_name(tmp_path, clips, cells, notes):
    for name in clips:
        write_clip(tmp_path, name, None, SOUND)
    if len(list(tmp_path.rglob("*.*"))) < len(clips):
        pytest.skip("this file system takes small and capital letters for the same")
    texts = listed(
        tmp_path, "file|text", *(f"{cell}|we hear {clip} here" for clip, cell in zip(clips, cells, strict=True))
    )
    assert texts == {name.rpartition(".")[0]: f"we hear {name} here" for name in clips}
    assert len(find_clips(tmp_path)[1]) == notes


@pytest.mark.parametrize(
    ("clips", "cell"),
    [
        (["s1/take.wav", "s2/take.wav"], "s3/take.wav"),
        (["001.wav", "01.wav"], "1.0"),
        (["S1/take.wav", "S2/take.wav"], "TAKE"),
    ],
)
def test_a_name_that_may_mean_several_recordings_is_not_guessed(tmp_path, clips, cell):
    for name in clips:
        write_clip(tmp_path, name, None, SOUND)
    with pytest.raises(UserError, match="could be"):
        listed(tmp_path, f"{cell}|one")


def test_lines_are_counted_in_one_column_and_files_named_in_another(tmp_path):
    recordings(tmp_path)
    found = listed(tmp_path, *lines_of("", lambda i, n, t: f"{(i * 3) % 8 + 1}|{n}|{t}"))
    assert found == dict(zip(NAMES, SENTENCES, strict=True))
    assert find_clips(tmp_path)[1] == []


@pytest.mark.parametrize("header", ["", "id|raw_text|normalized_text"])
@pytest.mark.parametrize("empty", [range(0, 8, 2), range(1, 8)])
def test_an_empty_normalised_text_is_filled_from_the_raw_one(tmp_path, header, empty):
    recordings(tmp_path)
    found = listed(tmp_path, *lines_of(header, lambda i, n, t: f"{n}|{t}.|{'' if i in empty else t}"))
    assert found == {n: t + "." * (i in empty) for i, (n, t) in enumerate(zip(NAMES, SENTENCES, strict=True))}


def test_metadata_csv_may_name_audio_by_the_suffix_that_it_had_before(tmp_path):
    for name in ("a.flac", "b.flac", "b.wav.flac", "c.ogg", "c.mp3"):
        write_clip(tmp_path, name, None)
    texts = listed(tmp_path, "a.wav|one", "wavs/b.wav|two", "c.mp3|three")
    assert texts == {"a": "one", "b": None, "b.wav": "two", "c": "three", "c.mp3": None}
    assert find_clips(tmp_path)[1] == []


def test_a_text_of_metadata_csv_may_hold_ends_of_lines_that_editors_do_not_know(tmp_path):
    write_clip(tmp_path, "a.wav", None)
    write_clip(tmp_path, "b.wav", None)
    assert listed(tmp_path, "a|one\u2028more\x85still", "b|two") == {"a": "one more still", "b": "two"}


def test_metadata_csv_in_another_encoding_names_the_line(tmp_path):
    write_clip(tmp_path, "a.wav", None)
    (tmp_path / "metadata.csv").write_bytes(b"a|one\nb|" + "床".encode("gbk"))
    with pytest.raises(UserError, match="metadata.csv: line 2 is not UTF-8"):
        find_clips(tmp_path)


def test_a_line_without_audio_is_only_a_note(tmp_path):
    write_clip(tmp_path, "a.wav", None)
    (tmp_path / "metadata.csv").write_text("a|one\ngone|two\n")
    assert find_clips(tmp_path)[1] == ["metadata.csv line 2: no audio called 'gone'"]


# ---- notes -----------------------------------------------------------------------------------------------------------


def test_texts_without_a_recording_are_named(tmp_path):
    write_clip(tmp_path, "002.wav", None)
    write_clip(tmp_path, "é.wav", None)
    (tmp_path / "sub").mkdir()
    for name in ("02.txt", "sub/a.TXT", "e\u0301.txt", "3.draft.txt", "4.md"):
        (tmp_path / name).write_text("text", encoding="utf-8")
    assert find_clips(tmp_path)[1] == ["no audio beside 02.txt, sub/a.TXT"]
    for number in range(5):
        (tmp_path / f"1{number}.txt").write_text("text", encoding="utf-8")
    assert find_clips(tmp_path)[1] == ["no audio beside 02.txt, 10.txt, 11.txt, 12.txt, 13.txt and 2 more"]


def test_of_files_that_differ_in_the_suffix_only_one_is_used_and_the_others_are_named(tmp_path):
    for name in ("a.wav", "a.mp3", "a.mp3.wav"):
        write_clip(tmp_path, name, None)
    write_clip(tmp_path, "b.wav", "lower")
    (tmp_path / "b.TXT").write_text("upper", encoding="utf-8")
    if (tmp_path / "b.txt").read_text(encoding="utf-8") == "upper":
        pytest.skip("this file system takes b.txt and b.TXT for one name")
    (tmp_path / "liesmich.TXT").touch()
    (tmp_path / "liesmich.txt").touch()
    clips, notes = find_clips(tmp_path)
    twins = {clip.file: clip.flags["duplicate_name"]["used_file"] for clip in clips if "duplicate_name" in clip.flags}
    assert twins == {"a.mp3": "a.wav"}, "a.mp3.wav has a name of its own"
    assert [clip.text for clip in clips if clip.name == "b"] == ["lower"]
    assert notes == ["b.TXT is left out, b.txt is used", "no audio beside liesmich.TXT, liesmich.txt"]


def test_hidden_files_and_links_that_lead_back_are_passed_over(tmp_path):
    write_clip(tmp_path, "a.wav", "text")
    write_clip(tmp_path, "._a.wav", None)
    write_clip(tmp_path, ".trash/b.wav", None)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [clip.name for clip in find_clips(tmp_path)[0]] == ["a"]


# ---- the doctor: one text, and all of them ---------------------------------------------------------------------------


def spoken(texts: Sequence[str], seconds: Sequence[float] | float = 3.0) -> list[Finding]:
    """Clips that say these texts, as far as the doctor knows."""
    seconds = [seconds] * len(texts) if isinstance(seconds, float) else seconds
    silences = {"lead_silence_sec": 0.0, "trail_silence_sec": 0.0}
    return [
        Finding(name, f"{name}.wav", {"text": text, "written": text, "duration_sec": duration, **silences})
        for name, text, duration in zip(map(str, range(len(texts))), texts, seconds, strict=True)
    ]


def flagged(findings: Sequence[Finding], flag: str) -> list[int]:
    return [int(finding.clip) for finding in findings if flag in finding.flags]


def test_a_speaking_rate_far_off_on_either_side_is_flagged():
    findings = spoken([*SENTENCES, "no", "two whole sentences instead of one, " * 3])
    check_texts(findings)
    assert flagged(findings, "speaking_rate") == [8, 9]
    assert "usual is 12" in findings[8].reasons[0]


def test_rates_are_compared_within_a_script_and_with_enough_clips_only():
    findings = spoken([*SENTENCES, "床前明月光疑是地上霜举头望明月"])
    check_texts(findings)
    assert flagged(findings, "speaking_rate") == []
    few = spoken(["a few words here", "some words there", "no"])
    check_texts(few)
    assert flagged(few, "speaking_rate") == []


def test_the_odd_script_is_flagged_and_a_bilingual_set_is_not():
    findings = spoken([*SENTENCES, "床前明月光"])
    check_texts(findings)
    assert flagged(findings, "language_mix") == [8]
    assert "written in Chinese characters, the others in Latin letters" in findings[8].reasons
    both = spoken([*SENTENCES[:4], "床前明月光", "疑是地上霜", "举头望明月", "低头思故乡"])
    check_texts(both)
    assert flagged(both, "language_mix") == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hello 你", "Latin letters"),
        ("你好世界 ok", "Chinese characters"),
        ("これは本です", "Japanese"),
        ("…", "no letters"),
    ],
)
def test_the_script_of_most_letters_counts(text, name):
    assert script(text) == name


def test_equal_texts_are_flagged_whatever_their_marks():
    findings = spoken(["Hello, world!", "hello world", "good night"])
    check_texts(findings)
    assert flagged(findings, "duplicate_text") == [0, 1]
    assert findings[0].figures["same_text_as"] == "1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Plain words, with marks: yes; no? “quoted” – l'été (aside) it's.", []),
        ("二零二四年，气温二十三点五度。", []),
        ("<|en|>tagged for the model", []),
        ("room 7", ["digits_left"]),
        ("a <b>bold</b> word", ["markup_left"]),
        ("nice 🙂 day", ["markup_left"]),
        ("#1 [breath]", ["digits_left", "markup_left"]),
        ("<|nospeech|>", ["empty_text"]),
        ("<|endofprompt|>spoken all the same", []),
        ("。。", ["empty_text"]),
        ("", ["empty_text"]),
    ],
)
def test_text_that_cannot_be_spoken_as_written_is_flagged(text, expected):
    assert audio_doctor.text_flags(text) == expected


@pytest.mark.parametrize("written", ["see www.example.org", "See https://a.b/c now.", "one|two"])
def test_markup_is_flagged_though_it_was_made_words_of(written):
    assert audio_doctor.text_flags("see a b c", written) == ["markup_left"]
    assert audio_doctor.text_flags("hello", "<|en|>hello, 5% of $3") == []


@pytest.mark.parametrize(
    ("written", "language", "expected"),
    [
        ("5시에", "ko", True),
        ("ここに5つ", "ja", True),
        ("25 лет", "ru", True),
        ("عندي ٣ كتب", "ar", True),
        ("Мне 25 лет, iPhone", "en", True),
        ("今日は5時", "ja", True),
        ("Ich habe 5 Äpfel.", "en", True),
        ("Ik heb 5 appels.", "nl", True),
        ("5个", "zh", False),
        ("at 5", "en", False),
        ("um 5", "de", True),
        ("55", "en", False),
        ("다섯 시에", "ko", False),
    ],
)
def test_digits_of_another_language_that_became_english_words_are_told(written, language, expected):
    assert digits_in_english(written, "five words", language) == expected
    assert not digits_in_english(f"<|{language}|>{written}", f"<|{language}|>{written}", language), "tagged: left as is"


def test_digits_that_became_english_words_are_flagged_by_the_letters_around_them():
    assert audio_doctor.text_flags("ここにfiveつ", "ここに5つ") == ["digits_in_english"]


RATES = ["too_much_text", "rate_too_high", "rate_too_low"]


@pytest.mark.parametrize(
    ("text", "seconds", "expected"),
    [
        ("I keep on reading at the usual speed of most people", 3.0, []),
        ("I keep on reading as fast as anybody who sells things", 2.1, []),
        ("I  read  as  slowly  as  a  sermon", 6.0, []),
        ("Anna Maria Smith", 8.0, ["rate_too_low"]),
        ("I keep on reading " * 5, 3.0, ["rate_too_high"]),
        ("I keep on reading " * 30, 3.0, ["too_much_text"]),
        ("U S B, M I S D N", 6.0, []),
        ("Goodbye", 1.9, []),
        ("Он говорит как по писаному, ваша фамилия", 3.0, []),
        ("Он говорит как по писаному, ваша фамилия" * 3, 3.0, ["rate_too_high"]),
        ("我不知道他今天会不会来", 2.5, []),
        ("我不知道他今天会不会来" * 4, 3.0, ["rate_too_high"]),
        ("我不知道他今天会不会来" * 9, 3.0, ["too_much_text"]),
        ("我", 3.0, ["rate_too_low"]),
        ("用 PyTorch 训练一个 transformer 模型", 3.0, []),
        ("これは本ですか、それともノートですか", 3.0, []),
        ("안녕하세요 저는 오늘 학교에 갑니다", 3.0, []),
        ("안녕하세요 저는 오늘 학교에 갑니다" * 4, 3.0, ["rate_too_high"]),
    ],
)
def test_a_text_that_cannot_be_said_in_the_time_is_flagged_by_itself(text, seconds, expected):
    findings = spoken([text], seconds)
    check_texts(findings)
    assert [flag for flag in findings[0].flags if flag in RATES] == expected


UNSAID = ["speaker_label", "numbered_text", "shared_start", "shared_end", "stage_direction"]


@pytest.mark.parametrize(
    ("form", "flag"),
    [
        ("Anna: {text}", "speaker_label"),
        ("SPEAKER 1：{text}", "speaker_label"),
        ("Old Tom - {text}", "speaker_label"),
        ("Marguerite {text}", "shared_start"),
        ("Amy, {text}", "shared_start"),
        ("安娜今天{text}", "shared_start"),
        ("{text} Marguerite", "shared_end"),
        ("{text}. End of clip.", "shared_end"),
        ("{i}. {text}", "numbered_text"),
        ("{i:03} {text}", "numbered_text"),
        ("({i}) {text}", "numbered_text"),
        ("No. {i}: {text}", "numbered_text"),
        ("{i}/30 {text}", "numbered_text"),
        ("２{i}．{text}", "numbered_text"),
        ("第{i}句：{text}", "numbered_text"),
        ("{i:03}.wav {text}", "numbered_text"),
        ("(whispering) {text}", "stage_direction"),
        ("（笑）{text}", "stage_direction"),
        ("【旁白】{text}", "stage_direction"),
        ("*sighs* {text}", "stage_direction"),
        ("{text}. (door slams)", "stage_direction"),
    ],
)
def test_what_stands_in_all_texts_and_is_not_said_is_flagged(form, flag):
    findings = spoken([form.format(text=text, i=i) for i, text in enumerate(SENTENCES, 11)], 5.0)
    check_texts(findings)
    assert flagged(findings, flag) == list(range(8))
    assert FLAGS[flag][0] == audio_doctor.WARN


@pytest.mark.parametrize(
    "form",
    [
        "{text}",
        "I {text}",
        "I'm {text}",
        "the {text}",
        "{i} hours and {text}",
        "{text} too",
        "[{text}]",
    ],
)
def test_what_all_texts_may_well_have_is_not_flagged(form):
    findings = spoken([form.format(text=text, i=7 * i) for i, text in enumerate(SENTENCES, 11)], 5.0)
    for finding in findings:
        finding.flags += ["markup_left"] * ("[" in form)
    check_texts(findings)
    assert [flag for finding in findings for flag in finding.flags if flag in UNSAID] == []


@pytest.mark.parametrize(
    "text",
    [
        "Note: the shop is closed",
        "12 people came to the shop",
        "2024 was a good year for it",
        "A 3:1 vote, and then at 10:30 we left",
        "The shop (the old one) is closed",
        "I live in Paris (France)",
        "(Almost) everyone came",
        "(a) the first point",
        "（三）总则在后面",
        "腾讯（深圳）公司",
        "He came. (Nobody knew.)",
        "two * three",
        "Well - I think so",
        "He said: come in",
    ],
)
def test_a_sentence_with_marks_or_numbers_is_no_stage_direction_and_not_numbered(text):
    findings = spoken([*SENTENCES, text], 3.5)
    check_texts(findings)
    assert [flag for flag in findings[-1].flags if flag in UNSAID] == []


@pytest.mark.parametrize(
    ("beginning", "flagged_texts"),
    [("Bob", [2, 5]), ("Old Tom", [2, 5]), ("Иван", [2, 5]), ("Note", []), ("Please note", []), ("Rivers", [])],
)
def test_a_name_and_a_colon_before_two_of_many_texts_is_flagged(beginning, flagged_texts):
    texts = [f"{beginning}: {text}" if i in (2, 5) else text for i, text in enumerate([*SENTENCES, "old rivers run"])]
    findings = spoken(texts, 4.0)
    check_texts(findings)
    assert flagged(findings, "speaker_label") == flagged_texts


@pytest.mark.parametrize("name", ["a.txt", "a.srt", "metadata.csv"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_with_its_mark_is_read(tmp_path, name, encoding):
    recordings(tmp_path, ["a"])
    lines = {
        "a.txt": "床 là",
        "a.srt": "1\n0:00:00,0 --> 0:00:01,0\n床 là\n",
        "metadata.csv": "file,text\r\na,床 là\r\n",
    }
    (tmp_path / name).write_bytes(("\ufeff" + lines[name]).encode(encoding))
    assert texts_in(tmp_path) == ["床 là"]


def test_times_in_a_table_are_left_out_and_flagged(tmp_path):
    recordings(tmp_path, ["a", "b"])
    (tmp_path / "metadata.csv").write_text("a|00:00:05 one\nb|two", encoding="utf-8")
    clips = find_clips(tmp_path)[0]
    assert [(clip.text, list(clip.flags)) for clip in clips] == [("one", ["timed_text"]), ("two", [])]


def test_one_or_two_texts_alone_show_no_label_and_no_number():
    findings = spoken(["Anna: good morning to you", "1. good evening to you all"])
    check_texts(findings)
    assert [flag for finding in findings for flag in finding.flags] == []


@pytest.mark.parametrize("part", ["*", "/", "a-", "[", "1/", "我", "'", " "])
def test_a_long_line_takes_no_long_time(tmp_path, part):
    recordings(tmp_path, ["a"])
    line = part * (30_000 // len(part)) + " ."
    (tmp_path / "a.lab").write_text(f"{line}\n{line}", encoding="utf-8")
    (tmp_path / "metadata.csv").write_text(f"a|{line}", encoding="utf-8")
    started = time.monotonic()
    with suppress(UserError):
        find_clips(tmp_path)
    check_texts(spoken([line] * 3))
    assert time.monotonic() - started < 2


# ---- the whole command -----------------------------------------------------------------------------------------------


def write_whole_script(raw: Path) -> None:
    for name in NAMES:
        (raw / f"{name}.txt").write_text("\n".join(SENTENCES * 2), encoding="utf-8")


def write_named_lines(raw: Path) -> None:
    for name, text in zip(NAMES, SENTENCES, strict=True):
        (raw / f"{name}.txt").write_text(f"Anna: {text}", encoding="utf-8")


def write_xtts(raw: Path) -> None:
    lines = lines_of(*READ["XTTS"])
    (raw / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")


def write_speaker_as_text(raw: Path) -> None:
    (raw / "metadata.csv").write_text("\n".join(f"{name}|anna" for name in NAMES), encoding="utf-8")


@pytest.mark.parametrize(
    ("write", "code", "expected"),
    [
        (write_xtts, 0, []),
        (write_named_lines, 0, ["speaker_label"]),
        (write_whole_script, 2, ["too_much_text", "duplicate_text"]),
        (write_speaker_as_text, 2, None),
    ],
)
def test_wrong_texts_of_all_clips_are_not_clean(tmp_path, tiny_model_dir, write, code, expected):
    for number, name in enumerate(NAMES):
        write_clip(tmp_path / "raw", f"{name}.wav", None, voice(seed=number))
    write(tmp_path / "raw")
    folders = ["--input-dir", tmp_path / "raw", "--output-dir", tmp_path / "data", "--model-dir", tiny_model_dir]
    assert main([*map(str, folders), "--device", "cpu", "--no-text-check"]) == code
    assert (tmp_path / "data/data.list").exists() == (code == 0)
    if expected is not None:
        report = json.loads((tmp_path / "data/report.json").read_text(encoding="utf-8"))
        assert [entry["flags"] for entry in report] == [expected] * len(NAMES)
