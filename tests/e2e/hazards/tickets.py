"""What a TLS context encrypts its session tickets with. Runs in the guest."""

import ctypes

GET_TICKET_KEYS = 58  # SSL_CTRL_GET_TLSEXT_TICKET_KEYS


def ticket_keys(context):
    """What the context encrypts its session tickets with (the object holds its SSL_CTX right after its header)."""
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    control = ctypes.CDLL("libssl.so.3").SSL_CTX_ctrl
    control.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    keys = ctypes.create_string_buffer(80)
    if control(pointer, GET_TICKET_KEYS, len(keys), keys) != 1:
        raise RuntimeError("OpenSSL does not tell its ticket keys")
    return keys.raw.hex()
