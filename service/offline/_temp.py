import time
from stmixer.service.schemas import *
from stmixer.service.ipc.messages import JobOrder
from stmixer.service.worker.features import FrameKey
from stmixer.service.worker.runner import Job, Window


def job_order(pending, lease):
    s, o = pending.stream, pending.stream.options
    return JobOrder(
        s.id,
        lease.slots,
        lease.generations,
        s.frame_width,
        s.frame_height,
        o.score_threshold,
        o.top_k,
        o.action_threshold,
    )


def read_job(runner, ring, order, bank):
    keys = tuple(FrameKey(order.stream, g) for g in order.generations)
    shown = runner.missing(keys)
    slot_of = dict(zip(keys, order.slots, strict=True))
    frames = ring.read([slot_of[k] for k in shown], [k.generation for k in shown])
    if frames is None:
        return None
    return Job(
        frames,
        order.width,
        order.height,
        order.score_threshold,
        order.top_k,
        order.action_threshold,
        Window(keys, shown),
        bank,
    )


def result_of(pending, actors, now, post):
    stream, keyframe = pending.stream, pending.keyframe
    t = Timings.model_construct(
        lookahead=(pending.frame_at - pending.seen_at) * 1e3,
        decode=(pending.ready_at - pending.frame_at) * 1e3,
        queue=(pending.started_at - pending.ready_at) * 1e3,
        inference=(now - pending.started_at - post) * 1e3,
        postprocess=post * 1e3,
    )
    return Result.model_construct(
        seq=keyframe.seq,
        pts_us=keyframe.pts_us,
        received_at_us=time.time_ns() // 1000,
        sent_at_us=0,
        warming=pending.warming,
        timings_ms=t,
        dropped_since_last=0,
        frame=FrameSize.model_construct(width=stream.frame_width, height=stream.frame_height),
        actors=actors,
    )
