"""Times one case of the comparison in PyTorch and prints one line of JSON.

``python bench.py --case conv-search-weight-step --variant channels-last --threads 2 --steps 5``

Sizes are the paper's unless options say otherwise; everything is float32, but for the variants with bf16 in their name, which
multiply under autocast. ``--device cuda`` takes a GPU, with cuDNN choosing its algorithms by trial and PyTorch's defaults for
TF32 (convolutions may, products may not). Seconds are those of each step after the warm-up, with the device done; ``loss`` and ``gradient_norm`` are those of the first step, so that variants can be compared with
each other (all start from the same weights and draw the same masks). Run one process for each case: ``peak_bytes`` is the
process's, of which ``imported_bytes`` are there before any work, most of it the library itself; on a GPU it is what was
allocated there.
"""

import argparse
import contextlib
import json
import resource
import sys
import time
from typing import Callable, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bilevel
import loaders
import networks
import recurrent
from bilevel import Virtual

Step = Callable[[], tuple[Tensor, Tensor] | None]
LAYOUTS = ("default", "channels-last", "compile")
ON_GPU = ("bf16", "compile-bf16", "graph")
"""Variants for a GPU alone: autocast (images channels-last), the same compiled, and the whole step as one CUDA graph."""
CONV_LR, CONV_WEIGHT_DECAY, CONV_CLIP, MOMENTUM = 0.025, 3e-4, 5.0, 0.9
RNN_LR, RNN_CLIP, TEMPORAL = 20.0, 0.25, 1e-3
SEARCH_WEIGHT_DECAY, TRAINING_WEIGHT_DECAY = 5e-7, 8e-7
LOADER_BATCHES = 100
"""Batches that make one step of cifar-loader."""
IMAGENET_BATCHES = 8
"""Batches that make one step of imagenet-loader: single ones come at once or late."""


class Case(NamedTuple):
    """How to make the function that takes one step, in which variants, and the default of ``--batch``."""

    make: Callable[[argparse.Namespace], Step]
    variants: tuple[str, ...]
    batch: int


def channels_last(variant: str) -> bool:
    """Whether images have their channels last, as bf16 on tensor cores wants them."""
    return variant in ("channels-last", *ON_GPU)


def autocast(options: argparse.Namespace) -> contextlib.AbstractContextManager:
    """Around a forward pass: bf16 where the variant has it."""
    wanted = options.variant.endswith("bf16")
    return torch.autocast(options.device, torch.bfloat16) if wanted else contextlib.nullcontext()


def image_batch(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Random CIFAR-sized images in the variant's layout, and labels."""
    images, labels = torch.randn(options.batch, 3, 32, 32), torch.randint(10, (options.batch,))
    if channels_last(options.variant):
        images = images.contiguous(memory_format=torch.channels_last)
    return images, labels


def prepare(model: networks.Network, variant: str) -> networks.Network:
    """The network in training mode; a compiled one is compiled cell by cell, which shares code between equal cells."""
    if channels_last(variant):
        model = model.to(memory_format=torch.channels_last)
    if variant.startswith("compile"):
        for cell in model.cells:
            cell.compile(dynamic=False)
    return model.train()


def conv_search(options: argparse.Namespace, kind: str) -> Step:
    """Steps of the convolutional search: ``weight``, ``alpha-first`` or ``alpha-second``."""
    model = prepare(networks.Network(options.channels or 16, options.layers or 8), options.variant)
    weights, alphas = bilevel.split(model)
    batches = {half: image_batch(options) for half in ("train", "valid")}
    sgd = torch.optim.SGD(weights, CONV_LR, MOMENTUM, weight_decay=CONV_WEIGHT_DECAY)
    adam = torch.optim.Adam(alphas, 3e-4, (0.5, 0.999), weight_decay=1e-3)
    buffers = [torch.zeros_like(w) for w in weights]
    virtual = Virtual(CONV_LR, CONV_WEIGHT_DECAY, MOMENTUM, buffers)

    def loss(half: str) -> bilevel.Loss:
        images, labels = batches[half]

        def value() -> Tensor:
            with autocast(options):
                return F.cross_entropy(model(images)[0], labels)

        return value

    return search_step(kind, model, sgd, adam, loss("train"), loss("valid"), loss("train"), CONV_CLIP, virtual)


def search_step(
    kind: str,
    model: nn.Module,
    sgd: torch.optim.Optimizer,
    adam: torch.optim.Optimizer,
    train: bilevel.Loss,
    valid: bilevel.Loss,
    weight_loss: bilevel.Loss,
    clip: float,
    virtual: Virtual,
) -> Step:
    """The step of a search that ``kind`` names."""
    alphas = bilevel.split(model)[1]

    def alpha() -> tuple[Tensor, Tensor]:
        if kind == "alpha-first":
            gradient = bilevel.first_order(model, valid)
        else:
            gradient = bilevel.second_order(model, train, valid, virtual)
        bilevel.alpha_step(adam, alphas, gradient)
        return gradient.loss, gradient.norm

    return (lambda: bilevel.weight_step(sgd, model, weight_loss, clip)) if kind == "weight" else alpha


def conv_evaluation(options: argparse.Namespace) -> Step:
    """A training step of DARTS_V2's network, with auxiliary head and path dropout 0.2."""
    model = networks.Network(
        options.channels or 36, options.layers or 20, genotype=networks.DARTS_V2, auxiliary=True
    )
    prepare(model, options.variant)
    images, labels = image_batch(options)
    sgd = torch.optim.SGD(model.parameters(), CONV_LR, MOMENTUM, weight_decay=CONV_WEIGHT_DECAY)

    def loss() -> Tensor:
        with autocast(options):
            logits, auxiliary = model(images, model.draw_masks(options.batch, 0.2))
            return F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(auxiliary, labels)

    return lambda: bilevel.weight_step(sgd, model, loss, CONV_CLIP)


def text_batch(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Random tokens [T, B] and the next ones [T·B]."""
    tokens = torch.randint(options.vocabulary, (options.sequence + 1, options.batch))
    return tokens[:-1], tokens[1:].flatten()


def recurrent_loss(
    model: recurrent.RecurrentModel, options: argparse.Namespace, rates: recurrent.Rates, temporal: float
) -> bilevel.Loss:
    """The loss of a batch with fresh masks, the hidden state carried on."""
    tokens, target = text_batch(options)
    width = model.encoder.embedding_dim
    state = torch.zeros(1, options.batch, width)

    def loss() -> Tensor:
        nonlocal state
        masks = recurrent.Masks.draw(rates, options.batch, width, options.vocabulary, tokens.device)
        with autocast(options):
            output = model(tokens, state, masks)
            state = output.hidden.detach().float()
            nll = output.nll(target)
            return nll + output.regularizer(0.0, temporal) if temporal else nll

    return loss


def recurrent_search(options: argparse.Namespace, kind: str) -> Step:
    """Steps of the recurrent search (Penn Treebank's sizes): ``weight``, ``alpha-first`` or ``alpha-second``."""
    model = recurrent.RecurrentModel(options.vocabulary, options.hidden or 300).train()
    if options.variant.startswith("compile"):
        model.rnns[0].compile(dynamic=False)
    weights, alphas = bilevel.split(model)
    sgd = torch.optim.SGD(weights, RNN_LR, weight_decay=SEARCH_WEIGHT_DECAY)
    adam = torch.optim.Adam(alphas, 3e-3, weight_decay=1e-3)
    rates = recurrent.Rates()
    train, valid = (recurrent_loss(model, options, rates, 0.0) for _ in range(2))
    weight_loss = recurrent_loss(model, options, rates, TEMPORAL)
    virtual = Virtual(RNN_LR, SEARCH_WEIGHT_DECAY, clip=RNN_CLIP)
    return search_step(kind, model, sgd, adam, train, valid, weight_loss, RNN_CLIP, virtual)


def recurrent_training(options: argparse.Namespace) -> Step:
    """A training step of DARTS_V2's recurrent model."""
    model = recurrent.RecurrentModel(options.vocabulary, options.hidden or 850, recurrent.DARTS_V2).train()
    if options.variant.startswith("compile"):
        model.rnns[0].compile(dynamic=False)
    sgd = torch.optim.SGD(model.parameters(), RNN_LR, weight_decay=TRAINING_WEIGHT_DECAY)
    loss = recurrent_loss(model, options, recurrent.Rates(rows=0.1), TEMPORAL)
    return lambda: bilevel.weight_step(sgd, model, loss, RNN_CLIP)


def cifar_loader(options: argparse.Namespace) -> Step:
    """LOADER_BATCHES augmented batches from ``--threads`` workers."""
    count = min(50_000, options.batch * LOADER_BATCHES)
    batches = iter(loaders.cifar(count, options.batch, options.threads, tensors=options.variant == "tensors"))

    def step() -> None:
        for _ in range(LOADER_BATCHES):
            next(batches)

    return step


def imagenet_loader(options: argparse.Namespace) -> Step:
    """IMAGENET_BATCHES augmented batches from ``--threads`` workers."""
    if options.data is None:
        raise SystemExit("imagenet-loader needs --data: a folder with a subfolder of images for each class")
    batches = iter(loaders.imagenet(options.data, options.batch, options.threads))

    def step() -> None:
        for _ in range(IMAGENET_BATCHES):
            next(batches)

    return step


CASES = {
    "conv-search-weight-step": Case(lambda o: conv_search(o, "weight"), LAYOUTS, 64),
    "conv-search-alpha-first": Case(lambda o: conv_search(o, "alpha-first"), LAYOUTS, 64),
    "conv-search-alpha-second": Case(lambda o: conv_search(o, "alpha-second"), LAYOUTS, 64),
    "conv-evaluation-step": Case(conv_evaluation, LAYOUTS, 96),
    "recurrent-search-weight-step": Case(lambda o: recurrent_search(o, "weight"), ("default", "compile"), 256),
    "recurrent-search-alpha-first": Case(lambda o: recurrent_search(o, "alpha-first"), ("default", "compile"), 256),
    "recurrent-search-alpha-second": Case(lambda o: recurrent_search(o, "alpha-second"), ("default", "compile"), 256),
    "recurrent-training-step": Case(recurrent_training, ("default", "compile"), 64),
    "cifar-loader": Case(cifar_loader, ("default", "tensors"), 96),
    "imagenet-loader": Case(imagenet_loader, ("default",), 128),
}


def peak_bytes(device: str) -> int:
    """The largest resident memory of this process so far (a loader's workers are not in it), or allocation on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def captured(step: Step) -> Step:
    """The step as one CUDA graph, which is recorded after it has run a few times."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()

    def replay() -> tuple[Tensor, Tensor] | None:
        graph.replay()
        return result

    return replay


def parse() -> argparse.Namespace:
    """The command line, with the case's default batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", required=True, choices=CASES)
    parser.add_argument("--variant", default="default", choices=(*LAYOUTS, *ON_GPU, "tensors"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads, or a loader's workers")
    parser.add_argument("--steps", type=int, default=5, help="steps to time")
    parser.add_argument("--warmup", type=int, default=2, help="steps before, not timed (1 at least)")
    parser.add_argument("--batch", type=int, help="images, sequences")
    parser.add_argument("--layers", type=int, help="cells")
    parser.add_argument("--channels", type=int, help="channels of the first cell")
    parser.add_argument("--hidden", type=int, help="hidden units")
    parser.add_argument("--sequence", type=int, default=35, help="time steps")
    parser.add_argument("--vocabulary", type=int, default=10_000, help="words")
    parser.add_argument("--data", help="imagenet-loader: folder of images")
    options = parser.parse_args()
    case = CASES[options.case]
    variants = case.variants
    if options.device == "cuda":
        # A second-order step waits for norms on the host, and Adam's counter lies there: no graph of those.
        variants += ON_GPU if options.case.endswith("-step") else ON_GPU[:-1]
    if options.variant not in variants:
        parser.error(f"{options.case} on {options.device} has the variants {', '.join(variants)}")
    options.batch = options.batch or case.batch
    return options


def main() -> None:
    """Warms up, times, prints."""
    options = parse()
    imported = peak_bytes("cpu")
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    torch.manual_seed(0)
    # A compiled cell is one function with a graph for every kind of cell and every set of gradients that steps want.
    torch._dynamo.config.recompile_limit = 64
    # Tensors of a step say themselves where they belong: a default device would cost time in every call.
    with torch.device(options.device):
        step = CASES[options.case].make(options)
    first, seconds = step(), []
    first = first and tuple(value.item() for value in first)
    if options.variant == "graph":
        step = captured(step)
    for _ in range(options.warmup - 1):
        step()
    wait()
    for _ in range(options.steps):
        begin = time.perf_counter()
        step()
        wait()
        seconds.append(time.perf_counter() - begin)
    result = {
        "name": options.case,
        "variant": options.variant,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": options.threads,
        "seconds": seconds,
        "peak_bytes": peak_bytes(options.device),
        "imported_bytes": imported,
        "torch": torch.__version__,
    }
    if first is not None:
        result |= {"loss": first[0], "gradient_norm": first[1]}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
