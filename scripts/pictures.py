"""Renders the README's pictures: the summary of a job and the comment on a pull request, from a real run, in a real browser.

Two examples run in a scratch repository; a sample of the second one expects a wrong answer. The command writes their Markdown as
it does on GitHub; markdown-it, mermaid and Chromium make PNGs of it. With a Docker daemon the stages check to verify run; without
one, or with `--target local`, the examples are served as processes, which has no build and no verify.

    python scripts/pictures.py [--target docker|local] [--output docs/pictures]
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
MERMAID = "mermaid@11.4.1"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
STAGES = {"docker": ("check", "fetch", "archive", "build", "verify"), "local": ("relay",)}
PORTS = {"digits": 18090, "tabular": 18091}
WIDTH = 1000  # pixels of the page
SCALE = 2
LIMIT_S = 1800.0

STYLE = """
body { margin: 0; padding: 24px; background: #fff; color: #1f2328; }
body { font: 16px/1.5 "Liberation Sans", "Noto Color Emoji", sans-serif; }
.frame { border: 1px solid #d1d9e0; border-radius: 6px; overflow: hidden; }
.head { background: #f6f8fa; border-bottom: 1px solid #d1d9e0; padding: 8px 16px; font-size: 14px; color: #59636e; }
.head b { color: #1f2328; }
.body { padding: 16px; overflow-wrap: break-word; }
h3 { font-size: 20px; margin: 0 0 12px; }
table { border-collapse: collapse; font-size: 14px; margin: 12px 0; }
table { display: block; width: max-content; max-width: 100%; overflow: auto; } /* as GitHub's */
th, td { border: 1px solid #d1d9e0; padding: 6px 13px; text-align: left; vertical-align: top; }
tr:nth-child(2n) td { background: #f6f8fa; }
code { background: #818b981f; border-radius: 6px; padding: 2px 6px; font: 85% "Liberation Mono", monospace; }
pre { background: #f6f8fa; border-radius: 6px; padding: 12px; overflow: hidden; white-space: pre-wrap; font-size: 13px; }
pre code { background: none; padding: 0; }
pre.mermaid { background: none; padding: 0; text-align: center; }
summary { cursor: pointer; }
details { margin: 8px 0; }
"""


def run(command: list[str], folder: Path, environment: Mapping[str, str] | None = None, *, may_fail: bool = False) -> str:
    """Run a command and return what it wrote on stdout; what it wrote on stderr is shown only if it failed."""
    sys.stderr.write(f"+ {' '.join(command)}\n")
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    if result.returncode and not may_fail:
        raise SystemExit(f"{result.stderr}\npictures: {command[0]} ended with {result.returncode}")
    return result.stdout


def repository(folder: Path) -> None:
    """Write a repository with two models, of which the second has a sample that expects a wrong answer."""
    for name, port in PORTS.items():
        ignored = shutil.ignore_patterns(".torchrelay", "deploy.yml", "README.md", "train.py")
        shutil.copytree(ROOT / "examples" / name, folder / name, ignore=ignored)
        config = folder / name / "model.yaml"
        config.write_text(re.sub(r"port: \d+", f"port: {port}", config.read_text(encoding="utf-8")), encoding="utf-8")
    sample = folder / "tabular" / "samples" / "virginica.json"
    expected = json.loads(sample.read_text(encoding="utf-8"))
    expected["expect"]["json"] = [0.9, 0.1, 0.0]
    sample.write_text(json.dumps(expected, indent=2), encoding="utf-8")
    git = ["git", "-c", "user.name=pictures", "-c", "user.email=pictures@example.com", "-c", "commit.gpgsign=false"]
    run([*git, "init", "--quiet"], folder)
    run([*git, "add", "--all"], folder)
    run([*git, "commit", "--quiet", "--message", "models"], folder)


def results(folder: Path, target: str) -> tuple[str, str]:
    """Run the models and return the Markdown of the first one's summary and of the pull request's comment."""
    command = [sys.executable, "-m", "torchrelay"]
    paths = os.pathsep.join(str(ROOT / name) for name in ("scripts", "handlers", "runtime"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")} | {"PYTHONPATH": paths}
    summaries = {}
    for name in PORTS:
        for stage in STAGES[target]:
            chosen = ["--target", target] if stage == "relay" else []
            run([*command, stage, name, *chosen], folder, environment, may_fail=name != "digits")
        result = folder / "results" / f"torchrelay-result-production--{name}-build" / f"{name}-build.json"
        result.parent.mkdir(parents=True)
        summaries[name] = run([*command, "summary", name, "--output", str(result)], folder, environment)
    comment = run([*command, "report", "--results", "results"], folder, environment, may_fail=True)
    if target == "local":
        for name in PORTS:
            run([*command, "delete", name, "--target", "local"], folder, environment, may_fail=True)
    return summaries["digits"], comment


def mermaid(folder: Path) -> str:
    """Return the script that draws the charts, from the package registry. GitHub draws them with the same one."""
    run(["npm", "pack", "--silent", MERMAID], folder)
    with tarfile.open(next(folder.glob("mermaid-*.tgz"))) as archive:
        member = archive.extractfile("package/dist/mermaid.min.js")
        if member is None:
            raise SystemExit(f"pictures: {MERMAID} has no dist/mermaid.min.js")
        return member.read().decode()


def document(markdown: str, head: str, script: str) -> str:
    """Return the page that the browser renders; its title becomes the height of its content."""
    body = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(markdown)
    body = re.sub(
        r'<pre><code class="language-mermaid">(.*?)</code></pre>', r'<pre class="mermaid">\1</pre>', body, flags=re.DOTALL
    )
    start = (
        "mermaid.initialize({startOnLoad: false});"
        "mermaid.run().finally(() => { document.title = document.querySelector('.frame').offsetHeight; });"
    )
    return (
        f'<!doctype html><html><head><meta charset="utf-8"><style>{STYLE}</style></head><body><div class="frame">'
        f'<div class="head">{head}</div><div class="body">{body}</div></div>'
        f"<script>{script}</script><script>{start}</script></body></html>"
    )


def photograph(page: Path, output: Path) -> None:
    """Render a page to a PNG of exactly its height."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"pictures: none of {', '.join(BROWSERS)} is installed; on Debian: apt-get install chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    base = [browser, "--headless", *sandbox, "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=20000"]
    shown = run([*base, f"--window-size={WIDTH},800", "--dump-dom", page.as_uri()], page.parent)
    height = re.search(r"<title>(\d+)</title>", shown)
    if height is None:
        raise SystemExit("pictures: the page did not finish")
    size = f"--window-size={WIDTH},{int(height[1]) + 48}"
    run([*base, f"--force-device-scale-factor={SCALE}", size, f"--screenshot={output}", page.as_uri()], page.parent)


def main() -> None:
    """Run the models and write the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", choices=sorted(STAGES), help="default: docker where a daemon answers, otherwise local")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "pictures", help="folder of the pictures")
    options = parser.parse_args()
    answers = shutil.which("docker") and subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0
    target = options.target or ("docker" if answers else "local")
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="torchrelay-pictures-") as name:
        folder = Path(name)
        models = folder / "models"
        models.mkdir()
        repository(models)
        summary, comment = results(models, target)
        script = mermaid(folder)
        heads = {"summary": (summary, "<b>Build | digits</b> summary"), "comment": (comment, "<b>github-actions</b> bot commented")}
        for picture, (markdown, head) in heads.items():
            page = folder / f"{picture}.html"
            page.write_text(document(markdown, head, script), encoding="utf-8")
            photograph(page, output / f"{picture}.png")


if __name__ == "__main__":
    main()
