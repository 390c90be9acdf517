"""The report in a real browser: phone, tablet, desk, in light and in dark.

Needs Chromium: `chromium`, `chromium-browser`, `google-chrome` or
`headless_shell` on the PATH. Frames of a width stand for screens, as the
browser's own window has a least width.
"""

import html
import json
import re
import shutil
import subprocess

import pytest

from bigrec_jax import config as config_lib
from bigrec_jax.stages import report
from bigrec_jax.workdir import paths as paths_lib, storage
from configs import common
from tests.results import made_up_runs

NAMES = ("chromium", "chromium-browser", "google-chrome", "headless_shell")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
WIDTHS = (390, 768, 1300)
SCHEMES = {"light": 1, "dark": 0}  # Of Blink's preferredColorScheme.

pytestmark = pytest.mark.skipif(
  CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is installed"
)

# What a screen of each width shows, measured in its frame.
MEASURE = """
const channel = v =>
  (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = colour => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(channel);
  return .2126 * r + .7152 * g + .0722 * b;
};
function measure(frame) {
  const page = frame.contentDocument, view = frame.contentWindow;
  const root = page.documentElement, wide = view.innerWidth;
  const style = x => view.getComputedStyle(x);
  const found = {width: wide, scrolls: root.scrollWidth, out: [], keys: [],
    cut: [], contrast: []};
  for (const x of page.querySelectorAll("body *")) {
    const box = x.getBoundingClientRect();
    const folded = "details:not([open]) > :not(summary)";
    const inside = x.closest(`.scroll, figure, ${folded}`);
    if (!inside && box.width && box.right > wide + .5)
      found.out.push(x.tagName + "." + x.className);
    const own = style(x);
    const hides = own.overflowX == "hidden" || own.textOverflow == "ellipsis";
    if (hides && x.scrollWidth > x.clientWidth && x.clientWidth)
      found.cut.push(x.tagName + "." + x.className);
  }
  for (const x of page.querySelectorAll(".scroll")) {
    if (!x.clientWidth) continue;  // It is folded.
    x.scrollLeft = 1e6;
    const box = x.getBoundingClientRect();
    for (const key of x.querySelectorAll("tbody th:first-child")) {
      const own = key.getBoundingClientRect();
      found.keys.push({moved: own.left - box.left, share: own.width / box.width,
        cut: key.scrollWidth - key.clientWidth});
    }
  }
  const behind = x => {
    for (; x; x = x.parentElement) {
      const own = style(x).backgroundColor;
      if (own != "rgba(0, 0, 0, 0)") return own;
    }
    return "rgb(255, 255, 255)";
  };
  const text = "p, td, th, li, dd, dt, a, summary, .ci";
  for (const x of page.querySelectorAll(text)) {
    const [a, b] = [light(style(x).color), light(behind(x))];
    found.contrast.push((Math.max(a, b) + .05) / (Math.min(a, b) + .05));
  }
  found.contrast = Math.min(...found.contrast);
  found.paper = light(behind(page.querySelector("section")));
  return found;
}
window.onload = () => {
  const all = [...document.querySelectorAll("iframe")].map(measure);
  document.body.innerHTML = "<pre>" + JSON.stringify(all) + "</pre>";
};
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
  """A report with tables, plots, cards, findings and long words in all."""
  root = tmp_path_factory.mktemp("browser") / "a-run-with-a-rather-long-name"
  paths = paths_lib.Paths(root)
  made_up_runs.evaluated(root, 0)
  made_up_runs.evaluated(root.parent / "another-run", 1)
  title = "The Extraordinarily-Long-And-Unbroken-Title_Of_A_Game " * 2
  storage.write_json(
    paths.ground_examples,
    [
      {
        "history": [title] * 3,
        "target": title,
        "predict": [title, "x" * 90],
        "grounded": {
          name: [title] * 3 for name in ("none", "popularity", "cf")
        },
        "rank": {"none": 3, "popularity": 2, "cf": 9},
      }
    ],
  )
  storage.write_json(
    paths.doctor,
    {
      "format": "csv",
      "rules": [],
      "findings": [],
      "checks": [],
      "notes": [f"a note on {'/very/long/path' * 9}"],
    },
  )
  stage = {"count": 40, "unit": "steps", "seconds": 75.0, "per_second": 0.5}
  storage.write_json(paths.throughput, {"train_cf sasrec": stage})
  tree = common.get_config()
  tree.report.compare = str(root.parent / "another-run")
  tree.report.price_per_hour = 2.5
  report.run(config_lib.from_config_dict(tree), root)
  return paths.report.read_text()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_screen_shows_all(page, tmp_path, scheme):
  source = html.escape(page)
  frames = "".join(
    f'<iframe srcdoc="{source}" style="width:{width}px;height:900px;border:0">'
    "</iframe>"
    for width in WIDTHS
  )
  path = tmp_path / "frames.html"
  path.write_text(
    f"<!doctype html><meta charset=utf-8><script>{MEASURE}</script>{frames}"
  )
  shown = subprocess.run(
    [
      CHROMIUM,
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      f"--user-data-dir={tmp_path / 'profile'}",
      f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
      "--window-size=1400,1000",
      "--virtual-time-budget=5000",
      "--dump-dom",
      path.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  ).stdout
  found = json.loads(html.unescape(re.search(r"<pre>(\[.*\])</pre>", shown)[1]))
  assert [one["width"] for one in found] == list(WIDTHS)
  for one in found:
    assert one["scrolls"] <= one["width"] and not one["out"], one
    assert not one["cut"]
    assert len(one["keys"]) > 20
    for key in one["keys"]:
      # The key column stays, is whole, and leaves room for the rest.
      assert abs(key["moved"]) < 1 and key["cut"] <= 1
      assert key["share"] < 0.6
    assert one["contrast"] >= 4.5
    assert (one["paper"] < 0.05) == (scheme == "dark")
