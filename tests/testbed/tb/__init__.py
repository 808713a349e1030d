# SPDX-License-Identifier: Apache-2.0
"""The testbed's driver: Python 3, standard library only. See ../README.md."""
