"""Ctrl-C at any moment leaves an optimizer between two steps: it goes on as if nothing had happened."""

import os
import signal
import sys
import threading

import pytest
import torch

import descend
from descend import schedules
from descend.interrupts import HeldBack
from optimizers import BY_NAME, parameters, train

OPTIONS = dict(clip_norm=1.0, ema_decay=0.9)


@pytest.fixture
def default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted_at(line, work):
    """Do `work` and send SIGINT at the `line`-th line that the library executes; whether it was raised."""
    seen = 0

    def trace(frame, event, _):
        nonlocal seen
        if "/descend/" not in frame.f_code.co_filename or frame.f_code.co_filename.endswith("interrupts.py"):
            return None if event == "call" else trace
        if event == "line":
            seen += 1
            if seen == line:
                sys.settrace(None)
                os.kill(os.getpid(), signal.SIGINT)
                return None
        return trace

    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def trained_with_interrupts(name, backend, lines):
    """Take ten steps, the sixth one under an interrupt, and take it again if it was not taken."""
    params = parameters()
    optimizer = getattr(descend, name)(params, lr=0.01 * schedules.cosine(20), backend=backend, **OPTIONS)
    train(optimizer, params, range(5))
    raised = interrupted_at(lines, lambda: train(optimizer, params, range(5, 6)))
    if optimizer.applied_steps == 5:
        train(optimizer, params, range(5, 6))
    train(optimizer, params, range(6, 10))
    return raised, optimizer, params


def check(name, backend, lines):
    whole = parameters()
    uninterrupted = getattr(descend, name)(whole, lr=0.01 * schedules.cosine(20), backend=backend, **OPTIONS)
    train(uninterrupted, whole, range(10))
    count = 0
    for line in lines:
        raised, optimizer, params = trained_with_interrupts(name, backend, line)
        count += raised
        assert optimizer.param_groups[0]["lr"] == uninterrupted.param_groups[0]["lr"], line
        for p, q in zip(params, whole, strict=True):
            assert torch.equal(p, q), line
            assert all(torch.equal(optimizer.state[p][k], uninterrupted.state[q][k]) for k in uninterrupted.state[q])
    assert count > 0.8 * len(lines)


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_an_interrupt_falls_between_steps(backend, default_handler):
    check("NAdam", backend, range(1, 300, 23))


@pytest.mark.long
@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("name", BY_NAME)
def test_an_interrupt_at_every_line_falls_between_steps(name, backend, default_handler):
    check(name, backend, range(1, 200, 1 if name == "AdamW" else 7))


def test_what_is_held_back_acts_at_the_end(default_handler):
    done = []

    def interrupted():
        with HeldBack():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_one_s_own_is_called_once():
    calls = []

    def mine(*received):
        calls.append(received)

    before = signal.signal(signal.SIGINT, mine)
    try:
        with HeldBack():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            assert not calls
        assert len(calls) == 1
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_python_does_not_handle_stays_as_it_is(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with HeldBack():
            assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_steps_as_well(default_handler):
    params = parameters()
    optimizer = descend.AdamW(params)
    thread = threading.Thread(target=train, args=(optimizer, params, range(3)))
    thread.start()
    thread.join()
    assert optimizer.applied_steps == 3


def test_an_error_under_way_puts_the_handler_back(default_handler):
    with pytest.raises(ZeroDivisionError), HeldBack():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
