#!/usr/bin/env bash
# Runs vision_jax in a virtual environment of its own, made on first use.
#
#   ./launch.sh --config=configs/transfer.py   the flags of vision_jax.main
#   ./launch.sh test [pytest arguments]        the tests
#   ./launch.sh test parity                    the slow comparisons as well
#   ./launch.sh python ...                     any other Python command
#
# VISION_JAX_PYTHON names another interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "$0")"

python=${VISION_JAX_PYTHON:-python3}
venv=.venv

die() { echo "launch.sh: $*" >&2; exit 1; }

# install EXTRAS: once for each state of setup.cfg and set of extras.
install() {
  local stamp="$venv/installed$1"
  if [ ! -x "$venv/bin/python" ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
      die "$python is older than 3.11; set VISION_JAX_PYTHON to a newer one"
    "$python" -m venv "$venv" || die "could not make $venv"
  fi
  if [ ! "$stamp" -nt setup.cfg ]; then
    echo "Installing vision_jax$1 into $venv (once)" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --editable ".$1" >&2 || die "the installation failed, see above"
    touch "$stamp"
  fi
}

case "${1:-}" in
  test)
    shift
    if [ "${1:-}" = parity ]; then
      shift
      install '[test,parity]'
      exec "$venv/bin/python" -m pytest -m parity "$@"
    fi
    install '[test]'
    exec "$venv/bin/python" -m pytest -n 2 "$@"
    ;;
  python)
    shift
    install ''
    exec "$venv/bin/python" "$@"
    ;;
  *)
    install ''
    exec "$venv/bin/python" -m vision_jax.main "$@"
    ;;
esac
