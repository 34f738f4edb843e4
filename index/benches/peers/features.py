"""Picture features without a trained network: one layer of random-patch convolutions, then PCA.

After Coates, Lee and Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning" (AISTATS 2011): patches
of 6 x 6 pixels, contrast-normalised and whitened, k-means centroids, the "triangle" activation, sums over the four
quadrants. The result is reduced by PCA and scaled to length one. Good enough to make vectors whose neighbourhoods are as
hard as those of embeddings, with NumPy alone; that anybody can make them again bit for bit is not promised (BLAS).
"""

import numpy as np

PATCH = 6
STRIDE = 2
SIDE = 32
CENTROIDS = 256
KMEANS_ROUNDS = 10
PATCHES_FOR_FIT = 100_000
PICTURES_FOR_FIT = 3_000
# A block and what is made of it stay in the second level of cache: 0.42 ms a picture and core, 1.1 ms with blocks of 250.
BLOCK = 10


def patches(pictures):
    """Contrast-normalised patches of N x 32 x 32 x 3 bytes: N*14*14 x 108, f32."""
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (PATCH, PATCH), axis=(1, 2))[:, ::STRIDE, ::STRIDE]
    flat = np.ascontiguousarray(windows).reshape(-1, PATCH * PATCH * 3).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.sqrt(flat.var(1, keepdims=True) + 10)
    return flat


class Features:
    """Fitted on a few thousand pictures; `raw` gives 1,024 values a picture, `reduced` the first of their principal components."""

    def __init__(self, pictures, seed):
        rng = np.random.default_rng(seed)
        sample = patches(pictures[:PICTURES_FOR_FIT])
        sample = sample[rng.choice(len(sample), min(PATCHES_FOR_FIT, len(sample)), replace=False)]
        self.mean = sample.mean(0)
        values, vectors = np.linalg.eigh(np.cov((sample - self.mean).T))
        self.whitening = ((vectors / np.sqrt(values + 0.1)) @ vectors.T).astype(np.float32)
        sample = (sample - self.mean) @ self.whitening
        centroids = sample[rng.choice(len(sample), CENTROIDS, replace=False)].copy()
        for _ in range(KMEANS_ROUNDS):
            nearest = (sample @ centroids.T - 0.5 * (centroids**2).sum(1)).argmax(1)
            for k in range(CENTROIDS):
                of_k = sample[nearest == k]
                centroids[k] = of_k.mean(0) if len(of_k) else sample[rng.integers(len(sample))]
        self.centroids = centroids
        self.components = None

    def raw(self, pictures):
        """N x 32 x 32 x 3 bytes -> N x 1024, f32."""
        grid = (SIDE - PATCH) // STRIDE + 1
        half = grid // 2
        squares = (self.centroids**2).sum(1)
        out = np.empty((len(pictures), 4 * CENTROIDS), np.float32)
        for start in range(0, len(pictures), BLOCK):
            block = pictures[start : start + BLOCK]
            p = ((patches(block) - self.mean) @ self.whitening).astype(np.float32)
            z = p @ self.centroids.T
            z *= -2
            z += squares
            z += (p**2).sum(1)[:, None]
            np.maximum(z, 0, out=z)
            np.sqrt(z, out=z)
            z = np.maximum(z.mean(1, keepdims=True) - z, 0).reshape(len(block), grid, grid, CENTROIDS)
            quadrants = [z[:, rows, columns].sum((1, 2)) for rows in (slice(half), slice(half, None)) for columns in (slice(half), slice(half, None))]
            out[start : start + BLOCK] = np.concatenate(quadrants, 1)
        return out

    def fit_components(self, raw, dim, whitening):
        """Principal components of `raw`, which is centred in place. `whitening` is how much of their variances is evened
        out: 0 leaves them, 0.5 divides a component by the fourth root of its variance, 1 gives all the same."""
        self.centre = raw.mean(0)
        raw -= self.centre
        values, vectors = np.linalg.eigh((raw.T @ raw) / len(raw))
        largest = np.argsort(-values)[:dim]
        self.components = (vectors[:, largest] * values[largest] ** (-whitening / 2)).astype(np.float32)

    def reduced(self, centred):
        """N x 1024, centred -> N x dim of length one, f32."""
        rows = centred @ self.components
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows.astype(np.float32)
