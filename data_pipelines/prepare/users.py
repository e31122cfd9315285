"""Keyed hash of user ids: the only form in which a user reaches a shard.

The hash is the first 16 hexadecimal digits of SHA-256(key, "\\n", user id), without the top bit, so it is a
non-negative int64. The same formula stands here twice: for Python lists, and as an Ibis expression that any engine with
SHA-256 runs. Without the key, ids that can be guessed cannot be told from their hashes; with the public default key
they can, hence the warning.
"""

import hashlib
import os
import warnings
from collections.abc import Sequence

import ibis
import ibis.expr.types as ir
import numpy as np

from data_pipelines.prepare.engine_differences import wide_integer

KEY_VARIABLE = "SPACETIME_GR_USER_KEY"
PUBLIC_DEFAULT_KEY = "spacetime-gr-public-default-key"
_HEX_DIGITS = "0123456789abcdef"


def user_key(warn: bool = True) -> str:
    """The key of the user hash: from the environment variable SPACETIME_GR_USER_KEY, else the public default.

    Args:
        warn: say with a UserWarning when the public default is used.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key:
        return key
    if warn:
        warnings.warn(
            f"{KEY_VARIABLE} is not set: user ids are hashed with the public default key, so whoever can guess an id "
            "can recognise its hash. Set it to a secret for data that is not public.",
            stacklevel=2,
        )
    return PUBLIC_DEFAULT_KEY


def key_fingerprint(key: str) -> str:
    """Twelve hexadecimal digits that tell two keys apart without revealing them."""
    return hashlib.sha256(f"spacetime-gr user key fingerprint\n{key}".encode()).hexdigest()[:12]


def hash_user_ids(user_ids: Sequence[str], key: str) -> np.ndarray:
    """Hash user ids as `hash_expression` does.

    Args:
        user_ids: ids as text, without white space at the ends.
        key: the secret, see `user_key`.

    Returns:
        int64 array of shape (len(user_ids),), values 0 .. 2**63 - 1.
    """
    prefix = f"{key}\n".encode()
    digests = b"".join(hashlib.sha256(prefix + user_id.encode()).digest()[:8] for user_id in user_ids)
    return (np.frombuffer(digests, dtype=">u8") & np.uint64(2**63 - 1)).astype(np.int64)


def hash_expression(user_id: ir.StringValue, key: ir.StringValue) -> ir.IntegerValue:
    """Ibis expression of the hash of a text column; null stays null.

    Args:
        user_id: ids as text, without white space at the ends.
        key: the secret; a column, as a literal would stand in the text of the query, which clusters log.
    """
    digest = (key + "\n" + user_id).hexdigest("sha256")
    # No engine-independent cast from hexadecimal text to a number exists, so the digits are added up.
    alphabet = ibis.literal(_HEX_DIGITS)
    digits = [wide_integer(alphabet.find(digest.substr(position, 1))) for position in range(16)]
    value = digits[0] % 8 * 16**15
    for position, digit in enumerate(digits[1:], start=1):
        value = value + digit * 16 ** (15 - position)
    return value
