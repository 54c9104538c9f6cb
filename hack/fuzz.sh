#!/usr/bin/env bash
# Runs every fuzz test of the module for the given time each (default 20s).
set -euo pipefail
cd "$(dirname "$0")/.."
for_each=${1:-20s}
grep -rlE --include='*_test.go' '^func Fuzz' api cmd internal hack | xargs -n1 dirname | sort -u | while read -r dir; do
	grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | awk '{print $2}' | while read -r name; do
		echo "== $dir $name"
		go test "./$dir" -run '^$' -fuzz "^$name\$" -fuzztime "$for_each" </dev/null
	done
done
