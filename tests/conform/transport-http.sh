#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
exec "$SILO_TEST_BUILD/silo-conform" transport http "listen=127.0.0.1:0 unix:http.sock"
