"""Matrices as the numerics of curvature take them, and how many vectors they multiplied."""

from contextlib import contextmanager

import torch

from descend.generalization import Conditions


class DenseMap:
    """A symmetric matrix that counts its products and its visits."""

    def __init__(self, matrix, noise=0.0):
        self.matrix = matrix.double()
        self.size, self.device = len(matrix), torch.device("cpu")
        self.conditions = Conditions.of_matrix(self.size)
        self.products = self.visits = self.depth = 0
        self.noise, self.source = noise, torch.Generator().manual_seed(9)

    @contextmanager
    def held(self):
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def __matmul__(self, vectors):
        assert self.depth, "held by every algorithm"
        self.visits += 1
        self.products += 1 if vectors.ndim == 1 else vectors.shape[1]
        found = self.matrix @ vectors
        if self.noise:
            found = (
                found
                + self.noise
                * found.norm()
                * torch.randn(found.shape, generator=self.source, dtype=torch.float64)
                / self.size**0.5
            )
        return found


def rotated(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues."""
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    drawn = torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis, _ = torch.linalg.qr(drawn)
    matrix = basis @ (values[:, None] * basis.T)
    return (matrix + matrix.T) / 2


def of_network(size=60, seed=0):
    """A bulk around 0 and some eigenvalues outside, on both sides."""
    bulk = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.3
    bulk[:4] = torch.tensor([12.0, 9.0, 7.5, -3.0])
    return rotated(bulk, seed)
