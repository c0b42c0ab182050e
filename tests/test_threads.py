"""Threads and processes: one OpenMP runtime, forked children, machines without a compiler; each in its own process."""

import os
import subprocess
import sys
import textwrap

from fused_optimizers import needs_kernels

SETUP = """
import os, sys, warnings
import torch
import descend
from descend.backends import openmp

def optimizer(make=descend.AdamW, size=2**17, **options):
    torch.manual_seed(0)
    params = [torch.randn(size).requires_grad_(), torch.randn(7, 3).requires_grad_()]
    for p in params:
        p.grad = torch.randn_like(p)
    return make(params, lr=0.1, **options), params

def stepped(**options):
    opt, params = optimizer(**options)
    for _ in range(3):
        opt.step()
    return opt, params
"""


def run(script, **environment):
    """What a script prints in a fresh process, in which warnings are printed too."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP + textwrap.dedent(script)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


@needs_kernels
def test_one_openmp_runtime_is_in_the_process_and_kernels_share_it_with_torch():
    script = """
        torch.set_num_threads(2)
        x = torch.randn(300, 300)
        y = x @ x
        opt, params = stepped(backend="cpp")
        print(torch.allclose(x @ x, y), len(openmp.mapped()), openmp.team(2)[3], openmp.team(1)[3])
        torch.set_num_threads(1)
        single, alone = stepped(backend="cpp")
        print(all(torch.equal(p, q) for p, q in zip(params, alone)))
    """
    assert run(script) == ["True 1 2 1", "True"]


@needs_kernels
def test_a_second_runtime_means_one_thread_and_one_warning_unless_one_is_asked_for(tmp_path):
    script = """
        import ctypes, shutil
        (file,) = openmp.mapped()
        other = os.path.join({folder!r}, "libgomp.so.1")
        shutil.copy(file, other)
        ctypes.CDLL(other)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.set_num_threads(1)
            single, alone = stepped(backend="cpp")
            print(len(caught))
            torch.set_num_threads(2)
            stepped(backend="cpp")
            opt, params = stepped(backend="cpp")
        print(len(openmp.mapped()), openmp.team(2))
        print(*(str(w.message).partition(" (")[0] for w in caught))
        print(all(torch.equal(p, q) for p, q in zip(params, alone)), len(opt._fused.tables))
    """
    quiet, two, warned, same = run(script.format(folder=str(tmp_path)))
    assert quiet == "0"
    assert two == "2 (0, 0, 0, 1)"
    assert warned == "2 OpenMP runtimes are loaded"
    assert same == "True 1"


@needs_kernels
def test_a_forked_child_steps_eagerly():
    script = """
        torch.set_num_threads(2)
        pairs = [(optimizer(), optimizer(backend="eager")) for _ in range(2)]
        for opt, _ in pairs[1]:
            opt.step()  # the team of the parent's threads is there now, and tables too
        torch.set_num_threads(1)  # torch's own operations hang in a fork that asks for more
        child = os.fork()
        if child == 0:
            code = 0
            for (opt, params), (expected, others) in pairs:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    for _ in range(2):
                        opt.step(), expected.step()
                code |= 1 * (not all(torch.allclose(p, q, atol=1e-5) for p, q in zip(params, others)))
                code |= 2 * bool(opt._fused.tables)
            try:
                stepped(backend="cpp")
                code |= 4
            except RuntimeError as error:
                code |= 8 * ("forked" not in str(error))
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        opt = pairs[0][0][0]
        opt.step()
        print(len(opt._fused.tables))
    """
    assert run(script) == ["0", "1"]


def test_without_a_compiler_everything_works_eagerly_with_one_warning(tmp_path):
    script = """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            opt, params = stepped()
            stepped(make=descend.RMSprop)
            stepped(fused=False)
        expected, others = stepped(backend="eager")
        print(all(torch.equal(p, q) for p, q in zip(params, others)), len(opt._fused.tables))
        print(*(str(w.message) for w in caught), sep="|")
        try:
            optimizer(backend="cpp")
        except RuntimeError as error:
            print(error)
    """
    nowhere = {"PATH": "", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "CXX": ""}
    same, warned, refused = run(script, **nowhere)
    assert same == "True 0"
    assert warned.startswith("no fused kernels: ")
    assert "|" not in warned
    assert "leave backend unset to step it eagerly" in refused
