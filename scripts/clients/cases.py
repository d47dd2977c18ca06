"""Cases, one after the other: what the scripts beside this are lists of."""
import sys
import time

CASES = []


def case(function):
    CASES.append(function)
    return function


def refused(kind, words, ask):
    try:
        ask()
    except kind as e:
        assert words in str(e), e
        return e
    raise AssertionError(f"expected {kind.__name__}")


def run(package):
    """Runs them all and ends the program: 1 where one failed."""
    failed = 0
    for each in CASES:
        started = time.monotonic()
        try:
            each()
            verdict = "ok"
        except Exception as e:
            failed += 1
            verdict = f"FAILED {type(e).__name__}: {e}"
        print(f"{each.__name__:<34} {time.monotonic() - started:6.2f} s  {verdict}")
    print(f"{len(CASES)} cases with {package.__name__} {package.__version__} (Python), {failed} failed")
    sys.exit(failed > 0)
