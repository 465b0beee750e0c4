"""The report as a file: it needs plotly, opens in a browser without a network, and draws every chart there."""

import argparse
import importlib.util
import re
import shutil
import subprocess

import pytest

from app.bench.files import write_json
from app.bench.report import NoPlotly, add_arguments, require_plotly, run, write_report
from tests.bench.hand_written import load

needs_plotly = pytest.mark.skipif(not importlib.util.find_spec("plotly"), reason="plotly is an extra")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""


@pytest.fixture
def without_plotly(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else found(name))


def command(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(word) for word in words]))


def dom(path, tmp_path):
    """The page as a browser has it after its scripts, and what the console said. There is no network."""
    finished = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--window-size=1200,9000", "--virtual-time-budget=8000", "--enable-logging=stderr"),
            *("--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    return finished.stdout, [line for line in finished.stderr.splitlines() if "CONSOLE" in line]


def test_without_plotly_one_is_told_how_to_get_it(without_plotly, tmp_path):
    with pytest.raises(NoPlotly, match=r"pip install 'slotwise\[bench-report\]'"):
        require_plotly()
    with pytest.raises(NoPlotly):
        write_report(tmp_path / "report.html", [load()])
    assert not (tmp_path / "report.html").exists()


@needs_plotly
def test_the_page_has_all_of_plotly_in_it(tmp_path):
    write_report(tmp_path / "report.html", [load()])

    assert (tmp_path / "report.html").stat().st_size > 1_000_000
    assert "<h1>Load test</h1>" in (tmp_path / "report.html").read_text(encoding="utf-8")


@needs_plotly
@pytest.mark.skipif(not BROWSER, reason="there is no browser")
@pytest.mark.parametrize(("loads", "charts"), [(1, 5), (3, 10)])
def test_a_browser_without_a_network_draws_every_chart_that_is_seen(tmp_path, loads, charts):
    """Of several loads the last is open; the charts of the others wait until they are opened."""
    write_report(tmp_path / "report.html", [load(max_concurrency=number + 1) for number in range(loads)])
    page, complaints = dom(tmp_path / "report.html", tmp_path)

    assert complaints == []
    assert set(re.findall(r'data-title="([^"]*)"', page)) == {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}
    assert "stroke: rgb(216, 222, 228)" in page, "grid lines have the page's colour, not plotly's"
    assert len(re.findall(r'<svg class="main-svg"[^>]*>\s*<defs id="defs-', page)) == charts


@needs_plotly
def test_saved_results_are_made_into_one_report(tmp_path, capsys):
    write_json(tmp_path / "a.json", [load(max_concurrency=1), load(max_concurrency=2)])
    write_json(tmp_path / "b.json", [load(max_concurrency=4)])

    assert command(tmp_path / "a.json", tmp_path / "b.json", "-o", tmp_path / "out.html") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out.html'}\n"
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert re.findall(r"<summary>(.*?)</summary>", page) == ["1 at once", "2 at once", "4 at once"]


def test_what_the_user_can_mend_is_one_line_and_status_2(tmp_path, capsys):
    (tmp_path / "none.json").write_text("{}", encoding="utf-8")

    assert command(tmp_path / "none.json", "-o", tmp_path / "out.html") == 2
    assert command(tmp_path / "absent.json", "-o", tmp_path / "out.html") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(line.startswith("slotwise bench report: error: ") for line in errors)
