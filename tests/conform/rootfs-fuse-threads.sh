#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
exec "$SILO_TEST_BUILD/silo-conform" rootfs fuse passthrough=no threads=4 open_files=2
