"""A curve of recall and queries a second, read between its points."""

import math

RECALLS = [0.95, 0.99]


def at_recall(curve, recall):
    """Queries a second, log-linear between the values around; the fastest point if all exceed it; None if none reaches it."""
    points = sorted((point["recall"], -point["qps"]) for point in curve)
    points = [(recall_, -qps) for recall_, qps in points]
    for place, (r1, q1) in enumerate(points):
        if r1 >= recall:
            if place == 0:
                return q1
            r0, q0 = points[place - 1]
            return math.exp(math.log(q0) + (math.log(q1) - math.log(q0)) * (recall - r0) / (r1 - r0))
    return None
