# Sourced by the launch scripts: finds a Python, makes or reuses .venv, installs the package and leaves it activated.
# Usage: source launch/environment.sh; ensure_environment [EXTRA]; ensure_java; ensure_iproute
#   EXTRA: an optional dependency group, such as dev. Java is what the tests of `prepare --engine spark` run on, iproute2
#   what the test of two hosts makes their network with.

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
environment="$repository/.venv"

find_python() {
  local candidate candidates=("${PYTHON:-}")
  [ -n "${PYTHON:-}" ] || candidates=(python3 python3.13 python3.12 python3.11)
  for candidate in "${candidates[@]}"; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Spacetime-GR needs Python 3.11, 3.12 or 3.13; ${candidates[0]} is" \
    "$( ("${candidates[0]}" --version 2>/dev/null || echo missing) | head -n 1)." >&2
  echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it: PYTHON=/path/to/python3.11 bash $0" >&2
  return 1
}

ensure_environment() {
  local extra="${1:-}" python wanted stamp
  # Without compiled modules on disk each process takes 7 s of processor time more to import torch and transformers.
  unset PYTHONDONTWRITEBYTECODE
  python="$(find_python)" || return 1
  if ! "$environment/bin/python" -c '' 2>/dev/null; then
    rm -rf "$environment" # made by an interrupted run, or for a Python that is gone
    echo "== making a virtual environment in $environment"
    if ! "$python" -m venv "$environment"; then
      rm -rf "$environment"
      echo "error: $python could not make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
      return 1
    fi
  fi
  # What is installed is remembered by the contents of the two files that decide it.
  wanted="$(cat "$repository/pyproject.toml" "$repository/constraints.txt" | cksum) $extra"
  stamp="$environment/.installed${extra:+-$extra}"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "== installing (a few minutes the first time)"
    local log="$environment/install.log"
    if ! (cd "$repository" && "$environment/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
      --no-compile --constraint constraints.txt --editable ".${extra:+[$extra]}" 2>&1 | tee "$log" |
      { grep --line-buffered -E "^(Collecting|Installing|Successfully|ERROR)" || true; } | cut -c1-160) ||
      ! "$environment/bin/python" -c 'import torch, transformers, deepspeed' >>"$log" 2>&1; then
      echo "error: the installation failed; pip's output is in $log. Check the network and the free disk space," \
        "remove $environment and run this again" >&2
      return 1
    fi
    echo "$wanted" >"$stamp"
  fi
  # shellcheck disable=SC1091
  source "$environment/bin/activate"
}

ensure_java() {
  if [ -n "${JAVA_HOME:-}" ] || command -v java >/dev/null 2>&1; then
    return # its version is checked where Spark is started
  fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "== installing Java (openjdk-17-jre-headless)"
    if apt-get update -q >/dev/null && apt-get install -q -y --no-install-recommends openjdk-17-jre-headless >/dev/null; then
      return
    fi
  fi
  echo "error: Java is missing, which Spark needs; install version 17 or 21 (Debian, Ubuntu: apt-get install" \
    "openjdk-17-jre-headless) or set JAVA_HOME" >&2
  return 1
}

ensure_iproute() {
  # Only root may make network namespaces: without it, or without them, the test says why it skips.
  if PATH="$PATH:/usr/sbin:/sbin" command -v ip >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
    return
  fi
  if command -v apt-get >/dev/null 2>&1; then
    echo "== installing iproute2"
    if apt-get update -q >/dev/null && apt-get install -q -y --no-install-recommends iproute2 >/dev/null; then
      return
    fi
  fi
  echo "warning: iproute2 is missing; the test of two hosts will skip (Debian, Ubuntu: apt-get install iproute2)" >&2
}
