#!/usr/bin/env bash
# Wheels with which relay_seg can be installed where there is no network:
#   tools/wheelhouse.sh FOLDER [PYTHON_VERSION [PACKAGE...]]
# for Linux on x86-64 and that Python; by default for the one it is run with.
# What machines with PyTorch have anyway is left out (see "there" below); name
# as PACKAGE, such as scipy or rich==13.9.4, what the machine lacks of it.
set -euo pipefail
if [ $# -lt 1 ]; then
  echo "usage: $0 FOLDER [PYTHON_VERSION [PACKAGE...]]" >&2
  exit 2
fi
python=${PYTHON:-python3}
out=$1
version=${2:-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')}
shift $(($# < 2 ? $# : 2))
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if compgen -G "$out/*.whl" >/dev/null; then
  echo "$out holds wheels, and two versions of one package do not install;" \
    "give an empty folder." >&2
  exit 1
fi
mkdir -p "$out"

there=(torch torchvision numpy opencv-python matplotlib pillow pyyaml packaging
  regex rich safetensors scipy tensorboard pyparsing markdown)
# mmpretrain asks for modelindex, which is empty, where model-index is meant,
# and for importlib-metadata, which it does not import.
unused=(modelindex importlib-metadata)
# Of these only source archives exist; they become wheels for every Python.
built=(onedl-mmcv==2.3.6 onedl-mmsegmentation==1.4.2 onedl-mmpretrain==1.3.6
  model-index==0.1.11)
# rasterio 1.4.3 and pyogrio 0.10.0 are half the size of the next versions.
found=(onedl-mmengine==0.10.12 rasterio==1.4.3 pyogrio==0.10.0 shapely
  addict==2.4.0 affine attrs certifi click click-plugins cligj einops ftfy
  mat4py ordered-set platformdirs prettytable termcolor wcwidth yapf)
[ "$version" != 3.10 ] || found+=(tomli)

# A copy: a build folder in the checkout may hold files of another day.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
(cd "$root" && cp -r setup.py pyproject.toml README.md LICENSE NOTICE \
  relay_seg configs tools data_prep "$copy")
"$python" -m pip wheel -q --no-deps -w "$out" "$copy" "${built[@]}"

platforms=()
for tag in _2_28 _2_27 _2_24 _2_17 2014 1; do  # pip compares them as text
  platforms+=(--platform "manylinux${tag}_x86_64")
done
"$python" -m pip download -q --no-deps --only-binary=:all: \
  --python-version "$version" --implementation cp "${platforms[@]}" \
  -d "$out" "${found[@]}" "$@"

# What a wheel asks for is here, or there.
"$python" - "$out" "$version" "${there[@]}" "${unused[@]}" <<'EOF'
import sys
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

out, version, *there = sys.argv[1:]
wheels = sorted(Path(out).glob('*.whl'))
known = {canonicalize_name(x) for x in there}
known |= {canonicalize_name(x.name.split('-')[0]) for x in wheels}
target = dict(extra='', python_version=version, sys_platform='linux',
              python_full_version=f'{version}.0', platform_system='Linux',
              platform_machine='x86_64')
missing = set()
for wheel in wheels:
    print(f'{wheel.stat().st_size / 2**20:6.1f} MiB  {wheel.name}')
    with ZipFile(wheel) as file:
        name = next(x for x in file.namelist()
                    if x.endswith('.dist-info/METADATA'))
        facts = Parser().parsestr(file.read(name).decode())
    for text in facts.get_all('Requires-Dist', []):
        asked = Requirement(text)
        if (canonicalize_name(asked.name) not in known
                and (not asked.marker or asked.marker.evaluate(target))):
            missing.add(f'{facts["Name"]} needs {asked.name}')
total = sum(wheel.stat().st_size for wheel in wheels)
print(f'{total / 2**20:6.1f} MiB  {len(wheels)} wheels in {out}')
if missing:
    sys.exit('\n'.join([*sorted(missing), 'Give these as PACKAGE.']))
EOF
echo "With Python $version, where ${there[*]} are installed:"
echo "  python3 -m pip install --no-index --no-deps --target SITE $out/*.whl"
echo "  export PYTHONPATH=SITE"
