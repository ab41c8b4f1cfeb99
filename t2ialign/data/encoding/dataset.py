"""A data set as training takes it: rows read in any process, completed in the one that holds the encoders."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from t2ialign.backbones.base import Backbone
from t2ialign.data.base import Source
from t2ialign.data.buckets import Buckets
from t2ialign.data.encoding.readers import ImageReader, Mirrored, NoImages, PromptReader, StoredLatents, StoredText
from t2ialign.errors import DataError, EnvironmentProblem
from t2ialign.types import Conditioning, Posterior


class LoadedRows(NamedTuple):
    """N examples as they come from disk: stored encodings, or images and prompts that are still to be encoded."""

    images: Posterior | Tensor
    """Latent posteriors [N, V, C, h, w] float32, or images [N, V, 3, H, W] in [-1, 1]; V is 1 where views share one."""
    geometry: Tensor | None
    """Micro-conditioning; of images that are not encoded yet (original h, w, crop top, left, target h, w). [N, V, 6]"""
    texts: Conditioning | list[tuple[str, ...]]
    """Embeddings [N, 1 or V, L, D], or N rows of prompts."""
    origins: list[str]
    scores: Tensor | None = None
    """[N, V]"""
    mask: Tensor | None = None
    """False where a list has no view. [N, V] bool"""

    @property
    def posterior(self) -> Posterior:
        """The latents of encoded rows."""
        assert isinstance(self.images, Posterior)
        return self.images

    @property
    def cond(self) -> Conditioning:
        """The embeddings of encoded rows."""
        assert isinstance(self.texts, Conditioning)
        return self.texts


class Encoder:
    """Runs a backbone's frozen encoders.

    Args:
        batch: images or prompts in one pass.
    """

    def __init__(self, backbone: Backbone, device: torch.device, batch: int):
        self.backbone = backbone
        self.device = device
        self.batch = batch

    def complete(self, rows: LoadedRows) -> LoadedRows:
        """The rows with everything encoded.

        Raises:
            DataError: an image's latents are not finite.
            EnvironmentProblem: the VAE cannot encode an image in this precision; names the image's row.
        """
        if isinstance(rows.images, Tensor):
            rows = self.encode_images(rows)
        return rows if isinstance(rows.texts, Conditioning) else rows._replace(texts=self.encode_texts(rows.texts))

    def encode_images(self, rows: LoadedRows) -> LoadedRows:
        """The rows with latents and micro-conditioning in place of images, on the CPU."""
        assert isinstance(rows.images, Tensor)
        views = rows.images.shape[1]
        flat = rows.images.flatten(0, 1)
        origins = [origin for origin in rows.origins for _ in range(views)]
        spans = range(0, len(flat), self.batch)
        parts = [self._posterior(flat[at : at + self.batch], origins[at : at + self.batch]) for at in spans]
        mean, std = (torch.cat(tensors).unflatten(0, (-1, views)) for tensors in zip(*parts, strict=True))
        return rows._replace(images=Posterior(mean, std), geometry=self._geometry(rows.geometry))

    def _posterior(self, flat: Tensor, origins: list[str]) -> tuple[Tensor, Tensor]:
        """(mean, std) of images [B, 3, H, W]. [B, C, h, w] float32 on the CPU each"""
        try:
            posterior = self.backbone.encode_images(flat.to(self.device))
        except EnvironmentProblem as error:
            if len(flat) == 1:
                raise EnvironmentProblem(f"{origins[0]}: {error}") from None
            parts = [self._posterior(flat[at : at + 1], origins[at : at + 1]) for at in range(len(flat))]
            return torch.cat([mean for mean, _ in parts]), torch.cat([std for _, std in parts])
        mean, std = posterior.mean.float().cpu(), posterior.std.float().cpu()
        finite = (mean.isfinite() & std.isfinite()).flatten(1).all(1)
        if not finite.all():
            origin = origins[int((~finite).nonzero()[0])]
            raise DataError(f"{origin}: the VAE makes NaN or infinite latents of this image; is its precision too low?")
        return mean, std

    def _geometry(self, sizes: Tensor | None) -> Tensor | None:
        """The backbone's micro-conditioning of images of these sizes and crops [N, V, 6]; None if it has none."""
        assert sizes is not None
        views = [self.backbone.geometry((a, b), (c, d), (e, f)) for a, b, c, d, e, f in sizes.flatten(0, 1).tolist()]
        found = [view for view in views if view is not None]
        return torch.stack(found).float().cpu().view_as(sizes) if found else None

    def encode_texts(self, prompts: list[tuple[str, ...]]) -> Conditioning:
        """[N, P, L, D] float32 on the CPU, for N rows of P prompts; equal prompts are encoded once."""
        distinct = list(dict.fromkeys(prompt for row in prompts for prompt in row))
        cond = self.encode_prompts(distinct)
        place = {prompt: index for index, prompt in enumerate(distinct)}
        numbers = torch.tensor([[place[prompt] for prompt in row] for row in prompts])
        return cond.map(lambda tensor: tensor[numbers])

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """[N, L, D] float32 on the CPU"""
        spans = range(0, len(prompts), self.batch)
        parts = [self.backbone.encode_prompts(prompts[at : at + self.batch]) for at in spans]
        return Conditioning.cat([part.to("cpu", torch.float32) for part in parts])


class Reader:
    """Reads rows from disk, without any model: what loader workers run."""

    def __init__(
        self, source: Source, latents: ImageReader | StoredLatents | NoImages, text: PromptReader | StoredText
    ):
        self.source = source
        self.latents = latents
        self.text = text

    def __call__(self, rows: list[int], mirrored: Mirrored = None) -> LoadedRows:
        """Some rows, by their index in the data set.

        Args:
            mirrored: the rows of which all images are mirrored.
        """
        examples = [self.source[row] for row in rows]
        images, geometry = self.latents(rows, mirrored)
        scores = None
        if examples[0].scores is not None:
            scores = torch.tensor([example.scores for example in examples])
        mask = None
        if examples[0].present is not None:
            mask = torch.arange(self.source.views) < torch.tensor([example.present for example in examples])[:, None]
        origins = [example.origin for example in examples]
        return LoadedRows(images, geometry, self.text(rows), origins, scores, mask)


class Encoded:
    """A data set as training takes it: `reader` in any process, `complete` in the one that holds the encoders.

    Rows that are read together share one of the `buckets`.
    """

    def __init__(self, source: Source, reader: Reader, encoder: Encoder, buckets: Buckets):
        self.views = source.views
        self.reader = reader
        self.buckets = buckets
        self._examples = len(source)
        self._encoder = encoder if self.needs_encoders else None

    def __len__(self) -> int:
        return self._examples

    @property
    def needs_encoders(self) -> bool:
        """Whether training still runs VAE or text encoders; if not, they can be released."""
        return isinstance(self.reader.latents, ImageReader) or isinstance(self.reader.text, PromptReader)

    def complete(self, rows: LoadedRows) -> LoadedRows:
        """The rows with everything encoded that was not stored."""
        return rows if self._encoder is None else self._encoder.complete(rows)

    def __getitem__(self, rows: list[int]) -> LoadedRows:
        """Some examples, by their index in the data set, encoded."""
        return self.complete(self.reader(rows))
