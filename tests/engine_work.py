"""Work for the tests of engines and of training: spawned workers import it, so it is a module of its own, and light."""

import os, signal, time
from pathlib import Path


class Work:
    "Squares; a few items are not so nice. Each call leaves a line in `log`."

    def __init__(self, log):
        self.log = str(log)

    def __call__(self):
        self.note("loaded")

        def do(item):
            self.note(item)
            if item == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if item == "kill once" and self.lines().count(item) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if item == "crash":
                os.abort()
            if item == "bad":
                raise ValueError("a bad image")
            if item == "full":
                raise OSError(28, "No space left on device")
            if item == "threads":
                return os.environ["OMP_NUM_THREADS"]
            if item == "slow":
                time.sleep(60)
            time.sleep(0.02 * (item == 0))  # the first is not the first to be done
            return item * item

        return do

    def note(self, line):
        handle = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{line} {os.getpid()}\n".encode())
        os.close(handle)

    def lines(self):
        return [line.rpartition(" ")[0] for line in Path(self.log).read_text().splitlines()]

    def pids(self):
        return {int(line.split()[-1]) for line in Path(self.log).read_text().splitlines()}


class Unfit:
    def __call__(self):
        raise FileNotFoundError("no weights")


class Deadly:
    def __call__(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Methods:
    "A function of the benchmark that makes a method by its brightness; on one image it kills its worker so many times."

    def __init__(self, deadly=-1, times=99, log=None, fails=-1):
        self.deadly, self.times, self.log, self.fails = deadly, times, log, fails

    def __call__(self, benchmark):
        from rim.method.segmentation import Method

        def predict(image, _):
            if image.tobytes() == benchmark[self.deadly % len(benchmark)][0].tobytes() and self.deadly >= 0:
                with open(self.log, "a") as log:
                    log.write("x\n")
                if len(Path(self.log).read_text().split()) <= self.times:
                    os.kill(os.getpid(), signal.SIGKILL)
            if self.fails >= 0 and image.tobytes() == benchmark[self.fails][0].tobytes():
                raise RuntimeError("too dark")
            return (image.mean(2) > 180).astype("uint8")

        return {"bright": Method(predict, key={"method": "bright"})}


def draw(seeds):
    "Examples of these seeds: an image of each."
    from rim.toybox.world import World

    return [World(32).scene(s).image for s in seeds]
