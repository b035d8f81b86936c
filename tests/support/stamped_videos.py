"""Video files whose packets are stamped, hidden, cut or stripped as a test needs."""

import fractions

import av
import numpy as np

LEVEL_STEP = 4


def write_levels(path, ticks, *, fps=10, codec="libx264", options=None, container=None):
    """Writes grey frames, frame k of level 4 k, shown from tick ticks[k] on.

    Args:
      path: the file; its ending chooses the container.
      ticks: rising ints, in 1 / fps seconds.
      fps: frames per second of the stream.
      codec: encoder.
      options, container: of the encoder and of the container.
    """
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = 48, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, fps)
        for number, tick in enumerate(ticks):
            image = np.full((48, 64, 3), LEVEL_STEP * number % 252, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = tick, fractions.Fraction(1, fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def rewrite(source, path, change):
    """Copies a video's packets; `change(number, data)` returns a packet's new bytes."""
    with av.open(str(source)) as given, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(p for p in given.demux(video=0) if p.size):
            copy = av.Packet(change(number, bytearray(packet)))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.duration, copy.is_keyframe = packet.duration, packet.is_keyframe
            copy.stream = stream
            output.mux(copy)


def strip_timing(path):
    """Removes the frame rate from a raw H.264 stream of the baseline profile."""
    data = path.read_bytes()
    start = data.index(b"\0\0\0\1\x67") + 5
    stop = data.index(b"\0\0\0\1", start)
    bits = "".join(f"{byte:08b}" for byte in data[start:stop].replace(b"\0\0\3", b"\0\0"))
    place = 24  # Profile, constraints, level.

    def exp_golomb():
        nonlocal place
        zeros = bits.index("1", place) - place
        place += 2 * zeros + 1
        return int(bits[place - zeros - 1 : place], 2) - 1

    exp_golomb()  # seq_parameter_set_id
    exp_golomb()  # log2_max_frame_num_minus4
    assert exp_golomb() == 2, "expected pic_order_cnt_type 2"
    exp_golomb()  # max_num_ref_frames
    place += 1
    exp_golomb()  # width
    exp_golomb()  # height
    assert bits[place] == "1", "expected frames, not fields"
    assert bits[place + 2] == "0", "expected no cropping"
    stripped = bits[: place + 3] + "01"  # No VUI, then the end.
    stripped += "0" * (-len(stripped) % 8)
    short = bytes(int(bits, 2) for bits in map("".join, zip(*[iter(stripped)] * 8, strict=True)))
    path.write_bytes(data.replace(data[start:stop], short))
