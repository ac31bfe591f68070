#!/usr/bin/env bash
# Runs all tests: ./test.sh [go test arguments]. Real Postgres, Redis and Kafka
# are started, and fetched where need be, by the tests themselves. What could
# not be run for want of a service is listed at the end; with CI set, that list
# is a failure.
set -u
cd "$(dirname "$0")" || exit 2
DOPAMINE_NOT_RUN_FILE=$(mktemp) || exit 2
export DOPAMINE_NOT_RUN_FILE
trap 'rm -f "$DOPAMINE_NOT_RUN_FILE"' EXIT
[ $# -gt 0 ] || set -- ./...
go test "$@"
status=$?
if [ -s "$DOPAMINE_NOT_RUN_FILE" ]; then
  echo
  echo "What was NOT RUN:"
  sort -u "$DOPAMINE_NOT_RUN_FILE"
  [ -z "${CI:-}" ] || [ "$status" -ne 0 ] || status=1
fi
exit "$status"
