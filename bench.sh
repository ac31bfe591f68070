#!/usr/bin/env bash
# Prints every figure next to its limit, measured in the same run:
# ./bench.sh [section…]; an unknown section names those there are. Takes about
# a quarter of an hour, and a quiet machine.
set -eu
cd "$(dirname "$0")"
exec go run ./tools/bench "$@"
