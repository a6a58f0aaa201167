#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
exec "$SILO_TEST_BUILD/tests/conform/old-kernel" 6.8 \
	"$SILO_TEST_BUILD/silo-conform" rootfs erofs
