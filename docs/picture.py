"""Writes docs/report.png, the picture of the README: `python docs/picture.py runs/demo/report.html`."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).with_name("report.png")
LARGEST = 300_000
WIDTH, HEIGHT = 1080, 900


def take(report: Path, picture: Path) -> None:
    """Photograph the first panel of a feature in `report`."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("No Chromium here. Install it, for example with `apt-get install chromium`.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(report.resolve().as_uri())
        box = page.locator("[id^=feature-]").first.bounding_box()
        if box is None:
            sys.exit(f"`{report}` shows no feature. Make it with `monosem demo`.")
        clip = {"x": 0, "y": box["y"], "width": WIDTH, "height": min(box["height"], HEIGHT)}
        page.screenshot(path=picture, full_page=True, clip=clip)  # type: ignore[arg-type]
        browser.close()
    if picture.stat().st_size > LARGEST:
        sys.exit(f"`{picture}` has {picture.stat().st_size:,} bytes, more than {LARGEST:,}.")


if __name__ == "__main__":
    take(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo/report.html"), PICTURE)
