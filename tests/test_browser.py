"""Both pages in a browser: they fit a screen and a phone. Skipped without Chromium; `make test-browser`."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_evaluation_page import BASE, TUNED, html, system
from test_report_page import finding, many

from clips.report_page import report_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]
# A frame, since a window has a least width; the page says how wide it is, and what it shows
FRAME = """<iframe src="{page}" style="width:{width}px;height:900px;border:0"></iframe><pre></pre><script>
onload = () => {{ const page = document.querySelector('iframe').contentDocument
  const say = text => document.querySelector('pre').textContent += text + '\\n'
  say(page.documentElement.scrollWidth - page.documentElement.clientWidth)
  {script} }}
</script>"""


def ask(page: Path, width: int, script: str = "") -> list[str]:
    """What a script says about a page in a frame of some width; its first line: by how much the page is too wide."""
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.format(page=page.as_uri(), width=width, script=script), encoding="utf-8")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    arguments += ["--disable-component-update", "--disable-sync", "--allow-file-access-from-files"]
    arguments += [f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *arguments, frame.as_uri()], capture_output=True, text=True, timeout=60)
    return re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)[1].splitlines()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    odd = finding("a_very_long_name_without_any_blank" * 4, "cut_off", text="Donaudampfschifffahrt" * 20)
    path = folder / "report.html"
    path.write_text(report_page([odd, *many(40)], ["/a/long/path" * 20], folder / "raw", folder), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("evaluation") / "evaluation.html"
    spoken = {"base": BASE, "tuned": TUNED, "output/a_long_checkpoint_name_at_lora-scale_0.8" * 2: system(0.6, 40)}
    path.write_text(html(spoken), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["report", "evaluation"])
def test_a_page_fits_its_screen(name, width, request):
    opened = "for (const part of page.querySelectorAll('details')) part.open = true\n"
    again = "say(page.documentElement.scrollWidth - page.documentElement.clientWidth)"
    assert ask(request.getfixturevalue(name), width, opened + again) == ["0", "0"]


def test_clips_are_filtered_by_flag_and_sorted(report):
    script = """
      const shown = () => say([...page.querySelectorAll('article')].filter(clip => !clip.hidden).length)
      page.querySelector('button[value=noisy]').click(); shown(); page.querySelector('button').click(); shown()
      const order = page.querySelector('select'); order.value = 'name'; order.onchange()
      say(page.querySelector('article h3').textContent)"""
    assert ask(report, 1280, script)[1:] == ["10", "41", "0000"]


def test_the_blind_test_hides_names_and_counts_preferences(evaluation):
    script = """
      const button = page.querySelector('#blind button'), status = page.querySelector('#blind span'); button.click()
      const names = () => new Set([...page.querySelectorAll('.sentence .who')].map(who => who.textContent.trim()))
      say([...names()].sort().join())
      for (const row of page.querySelectorAll('.sentence')) {
        const place = [...row.querySelectorAll('.take')].findIndex(take => take.dataset.name === 'tuned')
        row.querySelectorAll('input')[place].click()
      }
      button.click(); say(status.textContent)
      say(names().has('tuned') && page.querySelectorAll('input').length === 0)"""
    _, hidden, counted, shown = ask(evaluation, 1280, script)
    assert hidden == "A,B,C" and "tuned 10" in counted and shown == "true"
