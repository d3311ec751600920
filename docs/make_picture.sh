#!/usr/bin/env bash
# Makes docs/images/report.png: the top of the demo's page, at two pixels for one. Needs chromium.
#   bash docs/make_picture.sh [FOLDER]    FOLDER: a finished demo; without it the demo runs first
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-"uv run python"}
folder=${1:-runs/picture}
[ -n "${1:-}" ] || $python -m fullrank demo --out "$folder" --resume
$python -m fullrank report "$folder"
shot=$(mktemp --suffix=.png)
trap 'rm -f "$shot"' EXIT
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --force-device-scale-factor=2 \
  --virtual-time-budget=5000 --window-size=1240,920 --screenshot="$shot" "file://$(realpath "$folder")/report.html" 2>/dev/null
mkdir -p docs/images
$python - "$shot" docs/images/report.png <<'PY'
import sys

from PIL import Image

image = Image.open(sys.argv[1]).convert("RGB")
image.quantize(128, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)
PY
ls -l docs/images/report.png
