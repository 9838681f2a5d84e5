#!/bin/sh
# The Dockerfile's hands: install.sh tools | cpu | gpu | wheel. Addresses and certificates come as build secrets only:
#   index  shell lines such as UV_DEFAULT_INDEX=… and PIP_INDEX_URL=…
#   ca     a certificate bundle, where the way to the index needs one of its own
set -eu
set -a
if [ -f /run/secrets/index ]; then . /run/secrets/index; fi
if [ -f /run/secrets/ca ]; then SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca; fi
UV_CACHE_DIR=/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never UV_NO_CONFIG=1
set +a
locks=/images/locks

uv() { /tools/bin/uv pip install --quiet --python /opt/retain/bin/python "$@"; }

case "$1" in
tools)
    python3 -m venv /tools
    /tools/bin/python -m pip install --quiet --cache-dir /cache/pip --disable-pip-version-check -r "$locks/build.txt"
    ;;
cpu | gpu)
    python3 -m venv --without-pip /opt/retain
    # A wheel of torch in images/wheels goes before the index; the cpu image has none.
    if [ "$1" = gpu ]; then torch=torch; else torch=; fi
    # shellcheck disable=SC2086
    uv --find-links /images/wheels -c "$locks/constraints.txt" -r "$locks/$1.txt" $torch
    uv --no-deps -r "$locks/example.txt"
    ;;
wheel)
    uv --no-deps --no-cache --offline /dist/*.whl
    # Where a wheel lay while the image was built is nobody's business.
    rm -f /opt/retain/lib/python*/site-packages/*.dist-info/direct_url.json
    /tools/bin/cyclonedx-py environment --output-reproducible --validate -o /opt/retain/sbom.cdx.json /opt/retain/bin/python
    ;;
*)
    echo "install.sh tools | cpu | gpu | wheel" >&2
    exit 2
    ;;
esac
