"""JSON documents that nobody should believe, by what is wrong with them."""

HOSTILE = {
    "empty": b"",
    "not UTF-8": b'{"a":"\xff"}',
    "two byte order marks": b"\xef\xbb\xbf" * 2 + b"{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "key twice": b'{"a":1,"a":1}',
    "key twice, once escaped": b'{"a":1,"\\u0061":2}',
    "inner key twice": b'{"x":[{"a":1,"a":2}]}',
    "an integer of 5,000 digits": b"[" + b"9" * 5_000 + b"]",
    "an integer of ten million digits": b"9" * 10_000_000,
    "leading zero": b"[01]",
    "comment": b"{} // x",
    "two values": b"{}{}",
    "comma at the end": b"[1,]",
    "unquoted key": b"{a:1}",
    "control character": b'{"a":"\n"}',
    "half a surrogate pair": b'{"a":"\\ud800"}',
    "half a surrogate pair as key": b'{"\\udfff":1}',
    "65 levels": b"[" * 65 + b"]" * 65,
    "ten million brackets": b"[" * 10_000_000,
    "ten million objects": b'{"a":' * 5_000_000,
    "ten million empty lists": b"[" + b"[]," * 10_000_000 + b"1]",
    "ten million commas": b"[" + b"," * 10_000_000,
    "a string without end": b'{"' + b"a" * 10_000_000,
    "a string of escaped quotes without end": b'{"' + b'\\"' * 5_000_000,
    "a string of backslashes without end": b'{"' + b"\\" * 10_000_001,
}

NON_FINITE = {
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "-Infinity": b'{"a":-Infinity}',
    "1e400": b'{"a":1e400}',
    "-1e999": b'{"a":-1e999}',
}
"""What Python reads, and a configuration may hold where nothing uses it."""
