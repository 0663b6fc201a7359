"""FBGEMM's operators as an oracle: they read our int8, int4 and int2 rows as their own."""

import numpy as np
import pytest

from storage.codecs import codec_named

torch = pytest.importorskip("torch")
pytest.importorskip("fbgemm_gpu")
fbgemm = torch.ops.fbgemm


def normal_rows(width):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4000, width)) * rng.lognormal(size=(4000, 1)) * 0.05
    rows[:20] = rows[:20, :1]  # constant rows
    rows[20:30] = 0
    return rows.astype(np.float32)


@pytest.mark.parametrize("width", [4, 8, 32, 100])
def test_int8_rows_are_fused_rows_of_fbgemm(width):
    rows = normal_rows(width)
    codec = codec_named("int8")(width)

    raw = codec.encode(rows)
    theirs = fbgemm.FloatToFused8BitRowwiseQuantized(torch.from_numpy(rows)).numpy()
    read_by_them = fbgemm.Fused8BitRowwiseQuantizedToFloat(torch.from_numpy(raw)).numpy()

    # The offset has the same bits. They divide in float32 and add 1e-8 to the range: the scale may
    # differ in its last place, and a value near the middle between two codes may go to either.
    assert raw.shape == theirs.shape
    spread = rows.max(axis=1) > rows.min(axis=1)
    ours, others = (part[spread, width:].copy().view("<f4") for part in (raw, theirs))
    assert np.array_equal(ours[:, 1], others[:, 1])
    assert np.allclose(ours[:, 0], others[:, 0], rtol=2.0**-22, atol=0)
    apart = np.abs(raw[:, :width].astype(int) - theirs[:, :width])
    assert apart[spread].max() <= 1
    assert (apart[spread] > 0).mean() < 1e-2
    # They may add and multiply in one rounding.
    largest = np.abs(rows).max(axis=1, keepdims=True)
    assert (np.abs(read_by_them - codec.decode(raw)) <= largest * 2.0**-22).all()


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("width", [8, 32, 104])  # FBGEMM wants an even number of bytes
def test_int4_and_int2_rows_are_fused_rows_of_fbgemm(width, bits):
    rows = normal_rows(width)
    codec = codec_named(f"int{bits}")(width)

    raw = codec.encode(rows)
    theirs = fbgemm.FloatToFusedNBitRowwiseQuantizedSBHalf(torch.from_numpy(rows), bits).numpy()
    read_by_them = fbgemm.FusedNBitRowwiseQuantizedSBHalfToFloat(
        torch.from_numpy(raw), bits
    ).numpy()

    assert raw.shape == theirs.shape
    spread = rows.max(axis=1) > rows.min(axis=1)
    same = (raw[spread] == theirs[spread]).mean()
    assert same > 0.97, same
    largest = np.abs(rows).max(axis=1, keepdims=True)
    assert (np.abs(read_by_them - codec.decode(raw)) <= largest * 2.0**-20 + 1e-9).all()


def test_float8_codes_are_those_of_torch_and_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rows = normal_rows(32)
    codec = codec_named("float8")(32)

    raw = codec.encode(rows)

    scale = raw[:, 32:].copy().view("<f4")
    quotient = np.clip(rows / np.where(scale > 0, scale, 1), -448, 448).astype(np.float32)
    codes = quotient.astype(ml_dtypes.float8_e4m3fn)
    assert np.array_equal(raw[:, :32], codes.view(np.uint8))
    values = torch.from_numpy(raw[:, :32].copy()).view(torch.float8_e4m3fn).float().numpy() * scale
    assert np.array_equal(values, codec.decode(raw))


def test_float16_and_bfloat16_are_those_of_torch():
    rows = torch.from_numpy(normal_rows(32))

    for text, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        codec = codec_named(text)(32)
        raw = codec.encode(rows.numpy())

        assert np.array_equal(raw, rows.to(dtype).view(torch.uint8).numpy())
        assert np.array_equal(codec.decode(raw), rows.to(dtype).float().numpy())
