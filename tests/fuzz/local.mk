# SPDX-License-Identifier: Apache-2.0
# Fuzz targets; as ordinary tests they run their corpora.
