#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
exec "$SILO_TEST_BUILD/silo-conform" transport grpc "listen=127.0.0.1:0 unix:grpc.sock"
