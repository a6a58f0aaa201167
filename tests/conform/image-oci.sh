#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
exec "$SILO_TEST_BUILD/silo-conform" image oci
