"""Seconds on the clock for a scene and a photograph, with a thread per core and with one: on the machine as it is,
and beside a process that keeps every core busy."""

import subprocess, sys, time
from contextlib import contextmanager
from statistics import median
import torch
from bench import photo
from bench.harness import Row
from rim.base.engine import cores
from rim.method.matcher import Matcher
from rim.models.roles import models_folder
from rim.toybox.world import World

CLASSES, ROUNDS = "boat, fish, house, tree", 5
BUSY = "while True: sum(range(10**6))"


@contextmanager
def neighbours(number):
    "Processes that do nothing but compute."
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        yield time.sleep(0.5 * bool(number))
    finally:
        for process in running:
            process.kill()
            process.wait()


def seconds(function, threads):
    "The median of a few calls after one to warm up, milliseconds."
    torch.set_num_threads(threads)
    function()
    took = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        took.append(1e3 * (time.perf_counter() - start))
    return median(took)


def scenes():
    matcher, image = Matcher.from_profile("toybox"), World().scene(1_000_000).image
    matcher.segment(image, CLASSES)
    return lambda: matcher.segment(image, CLASSES)


def photographs():
    photo.whole()
    return photo.whole


def run():
    before, work = torch.get_num_threads(), {"toybox scene, 128 x 128": scenes}
    if (models_folder(photo.settings()) / photo.settings().sam).is_dir():
        work["photograph, 640 x 480"] = photographs
    for size, make in work.items():
        call = make()
        for load, number in (("beside nothing of ours", 0), (f"beside {cores()} busy processes", cores())):
            with neighbours(number):
                many, one = seconds(call, cores()), seconds(call, 1)
            yield Row(f"segment, {cores()} threads, {load}", size, many, "one thread", one)
    torch.set_num_threads(before)
