#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A repository of our own, so that neither network nor mirror matter; with a
# fixed date mmdebstrap makes the same image each time.
set -eu

for program in mmdebstrap dpkg-deb; do
	if ! command -v $program >/dev/null; then
		echo "1..0 # SKIP $program is not installed"
		exit 0
	fi
done
repo=$(mktemp -d "${TMPDIR:-/tmp}/silo-debian-XXXXXX")
trap 'rm -rf "$repo"' EXIT
chmod 755 "$repo"
mirror=$("$SILO_TEST_SOURCE/tests/debian-repo.sh" "$repo")
SOURCE_DATE_EPOCH=1000000000 SILO_TEST_REFERENCE=debian:silo+silo-hello,libsilo++6 \
	"$SILO_TEST_BUILD/silo-conform" image debian "mirror=$mirror" variant=extract
