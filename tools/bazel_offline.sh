#!/usr/bin/env bash
# Runs Bazel without the network:
#
#     tools/bazel_offline.sh build //...
#     tools/bazel_offline.sh test //tests/stability/...
#
# Made for Bazel 4.2, Debian's package bazel-bootstrap, which has the rules of
# Python built in and knows no modules: small repositories beside this script
# stand for those that it would download. The interpreter and all third-party
# packages are those of .venv, or of the directory named by VENV.

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bin="$(cd "${VENV:-$root/.venv}" && pwd)/bin"
bazel="${BAZEL:-bazel}"

if [ $# -eq 0 ]; then
  echo "Usage: tools/bazel_offline.sh build|test|run|query TARGET..." >&2
  exit 1
fi
if ! command -v "$bazel" >/dev/null; then
  echo "error: no bazel. On Debian: apt install bazel-bootstrap" >&2
  exit 1
fi
if [ ! -x "$bin/python3" ]; then
  echo "error: no $bin/python3. 'make venv' makes it." >&2
  exit 1
fi

command="$1"
shift
overrides=()
for repository in rules_cc rules_java rules_python remote_coverage_tools; do
  overrides+=("--override_repository=$repository=$root/tools/offline_repositories/$repository")
done
environment=()
if [ "$command" != query ]; then
  environment=(--symlink_prefix=/ --action_env=PATH --test_env=PATH
    --test_env=HOME)
fi

cd "$root"
PATH="$bin:$PATH" exec "$bazel" "$command" \
  "${overrides[@]}" "${environment[@]}" "$@"
