#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
exec python3 "$SILO_TEST_SOURCE/tests/tar/cases.py" "$SILO_TEST_BUILD/tests/tar/list"
