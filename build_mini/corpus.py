"""Speech by script: flite voices with phone ends, and festvox-ru's recordings with their labels.

Needs the Debian packages `flite` and `espeak-ng`. `festvox-ru` is used where it is installed, else it is downloaded
with `apt-get download` and unpacked into the work folder.
"""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile

from build_mini.common import OWN_VOICES, SEED, TOKENIZER_RATE, Clip, log_line, require_programs, write_manifest
from build_mini.texts import sentences
from common.files import atomic_path
from config import UserError

SHARED, TEST = 80, 40  # sentences that every flite voice speaks; the test ones are never trained on
OWN_TEXTS = {"slt": 1500, "awb": 1300, "rms": 1300, "kal16": 700}  # further sentences, each spoken by one voice
RU_VOICES = Path("usr/share/festival/voices/russian/msu_ru_nsh_clunits")
ESPEAK_TEXTS = 14  # short clips of each espeak voice: only the speaker encoder hears them
ESPEAK_VOICES = """en-us en-us+f1 en-us+f2 en-us+f3 en-us+f4 en-us+f5 en-us+m1 en-us+m2 en-us+m3 en-us+m4 en-us+m5
en-us+m6 en-us+m7 en-us+Alicia en-us+Andrea en-us+Annie en-us+Gene en-us+Jacky en-us+Lee en-us+Mario en-us+Michael
en-us+Nguyen en-us+anika en-us+belinda en-us+boris en-us+grandma en-us+grandpa en-us+john en-us+klatt en-us+klatt2
en-us+klatt4 en-us+linda en-us+max en-us+pablo en-us+quincy en-us+rob en-us+shelby en-us+steph en-us+travis
en-us+victor en-gb en-gb-scotland+m3 en-gb+f2 en-gb+adam""".split()


def speak_flite(text: str, voice: str, path: Path) -> tuple[list[str], list[float]]:
    """Write one 16 kHz clip; return phones and their ends in seconds."""
    wav = path.with_suffix(".wav")
    command = ["flite", "-voice", voice, "-psdur", "-t", text, "-o", str(wav)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    store(wav, path)
    pairs = [pair.rsplit(":", 1) for pair in printed.split()]
    return [name for name, _ in pairs], [float(end) for _, end in pairs]


def speak_espeak(text: str, voice: str, path: Path) -> None:
    """Write one clip of an espeak-ng voice, resampled to 16 kHz."""
    wav = path.with_suffix(".wav")
    subprocess.run(["espeak-ng", "-v", voice, "-w", str(wav), text], check=True, capture_output=True)
    store(wav, path)


def store(wav: Path, path: Path) -> None:
    """Turn a fresh wav into a 16 kHz flac."""
    import librosa

    samples, rate = soundfile.read(wav, dtype="float32")
    if rate != TOKENIZER_RATE:
        samples = librosa.resample(samples, orig_sr=rate, target_sr=TOKENIZER_RATE, res_type="polyphase")
    soundfile.write(path, np.clip(samples, -1, 1), TOKENIZER_RATE)
    wav.unlink()


def make_flite(work: Path, job: tuple[str, str, str, str]) -> Clip:
    """One corpus clip from (id, voice, split, text)."""
    clip_id, voice, split, text = job
    clip = Clip(clip_id, voice, "en", split, text, 0.0, [], [])
    clip.phones, clip.ends = speak_flite(text, voice, clip.path(work))
    clip.seconds = soundfile.info(clip.path(work)).duration
    return clip


def flite_jobs() -> list[tuple[str, str, str, str]]:
    """Who says what: shared and test sentences by everyone, the rest by one voice each."""
    stream = sentences(SEED)
    jobs = []
    for split, count in (("shared", SHARED), ("test", TEST)):
        for number, text in enumerate(islice(stream, count)):
            jobs += [(f"{voice}_{split}_{number:04d}", voice, split, text) for voice in OWN_VOICES]
    for voice, count in OWN_TEXTS.items():
        jobs += [(f"{voice}_{number:05d}", voice, "train", text) for number, text in enumerate(islice(stream, count))]
    return jobs


def make_espeak(work: Path, job: tuple[str, str, str]) -> Clip:
    """One espeak clip from (id, voice, text); no phones."""
    clip_id, voice, text = job
    clip = Clip(clip_id, voice, "en", "train", text, 0.0, [], [])
    speak_espeak(text, voice, clip.path(work))
    clip.seconds = soundfile.info(clip.path(work)).duration
    return clip


def espeak_jobs() -> list[tuple[str, str, str]]:
    """A few sentences for each espeak voice."""
    stream = (text for text in sentences(SEED + 1) if len(text) > 30)
    return [
        (f"{voice}_{number:02d}", voice, text)
        for voice in ESPEAK_VOICES
        for number, text in enumerate(islice(stream, ESPEAK_TEXTS))
    ]


def russian_folder(work: Path) -> Path:
    """festvox-ru's folder: the installed one, else unpacked from a downloaded package.

    UserError where it cannot be downloaded."""
    packages = work / "packages"
    unpacked = packages / "festvox-ru"  # appears only when complete
    for root in (Path("/"), unpacked):
        if (root / RU_VOICES / "wav").is_dir():
            return root / RU_VOICES
    require_programs("apt-get", "dpkg")
    packages.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", "festvox-ru"], cwd=packages, check=True)
        with atomic_path(unpacked) as part:
            subprocess.run(["dpkg", "-x", str(next(packages.glob("festvox-ru*.deb"))), str(part)], check=True)
    except subprocess.CalledProcessError as error:
        raise UserError(f"festvox-ru was not unpacked ({error}); try again, or apt-get install festvox-ru") from error
    return unpacked / RU_VOICES


def read_labels(path: Path) -> tuple[list[str], list[float]]:
    """Phones and ends of one label file ("end number phone" after a line with #)."""
    body = path.read_text(encoding="utf-8").split("#", 1)[1]
    rows = [line.split() for line in body.splitlines() if len(line.split()) == 3]
    return [row[2] for row in rows], [float(row[0]) for row in rows]


def make_russian(work: Path, folder: Path, line: str) -> Clip | None:
    """One recording with its labels; every 31st is kept for tests."""
    match = re.match(r'\(\s*(\w+)\s+"(.*)"', line)
    if not match or not (folder / "lab" / f"{match[1]}.lab").exists():
        return None
    phones, ends = read_labels(folder / "lab" / f"{match[1]}.lab")
    split = "test" if int(match[1].split("_")[1]) % 31 == 0 else "train"
    clip = Clip(match[1], "ru_nsh", "ru", split, match[2], 0.0, phones, ends)
    samples, rate = soundfile.read(folder / "wav" / f"{match[1]}.wav", dtype="float32")
    if rate != TOKENIZER_RATE:
        raise ValueError(f"{match[1]}.wav has {rate} Hz, expected {TOKENIZER_RATE}; the package changed")
    soundfile.write(clip.path(work), samples, TOKENIZER_RATE)
    clip.seconds = len(samples) / rate
    return clip


def build(work: Path) -> None:
    """Write work/wav, work/corpus.jsonl (aligned speech) and work/espeak.jsonl (voices only)."""
    require_programs("flite", "espeak-ng")
    folder = russian_folder(work)
    for voice in (*OWN_VOICES, *ESPEAK_VOICES, "ru_nsh"):
        (work / "wav" / voice).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        clips = list(pool.map(lambda job: make_flite(work, job), flite_jobs()))
        espeak = list(pool.map(lambda job: make_espeak(work, job), espeak_jobs()))
    lines = (folder / "etc" / "txt.done.data").read_text(encoding="utf-8").splitlines()
    clips += [clip for line in lines if (clip := make_russian(work, folder, line))]
    write_manifest(work, "corpus", clips)
    write_manifest(work, "espeak", espeak)
    for voice in (*OWN_VOICES, "ru_nsh"):
        mine = [clip.seconds for clip in clips if clip.voice == voice]
        log_line(work, "corpus", f"{voice}: {len(mine)} clips, {sum(mine) / 60:.1f} min")
    log_line(work, "corpus", f"espeak: {len(espeak)} clips, {sum(clip.seconds for clip in espeak) / 60:.1f} min")
