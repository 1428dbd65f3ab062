"""Checks that these networks and steps compute what the golden files say; exits 1 when one is out of tolerance.

``python check_golden.py [--layout channels-last] [--compile]`` reads $DARTS_GOLDEN_DIR, or the repository's
tests/golden, and compares the results stored in files of these families: conv_supernet, cifar_*, bilevel_conv_*,
rnn_*, bilevel_rnn_*.
Errors are relative to the stored tensor's largest magnitude; tolerances are those of the folder's README.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

import bilevel
import networks
import recurrent
from bilevel import Virtual

FOLDER = Path(os.environ.get("DARTS_GOLDEN_DIR") or Path(__file__).parents[2] / "tests" / "golden")


class Golden:
    """One file: its configuration and tensors, and the worst error of each kind of result compared with it."""

    def __init__(self, path: Path):
        with safe_open(path, "pt") as file:
            self.meta = {key: json.loads(value) for key, value in file.metadata().items()}
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}
        self.name = path.stem
        self.worst: dict[str, tuple[float, float, str]] = {}
        self.compared: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names start with ``prefix``, by the rest of their names."""
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def compare(self, key: str, ours: Tensor, tolerance: float) -> None:
        """Notes the error of ``ours`` against the tensor ``key``."""
        expected, ours = self[key].double(), ours.detach().double().reshape(self[key].shape)
        error = (ours - expected).abs().max().item()
        if scale := expected.abs().max().item():
            error /= scale
        kind = key.split("/cells")[0].split("/rnns")[0] if key.count("/") > 1 else key.split("/")[0]
        self.compared.add(key)
        if kind not in self.worst or not error <= self.worst[kind][0]:
            self.worst[kind] = (error, tolerance, key)

    def compare_all(self, prefix: str, ours: dict[str, Tensor], tolerance: float) -> None:
        """Compares every stored tensor under ``prefix``; one that ``ours`` lacks is an error."""
        for name in self.group(prefix):
            self.compare(prefix + name, ours[name], tolerance)

    def verdict(self) -> bool:
        """Prints the worst error of every kind; whether all are within tolerance."""
        failed = [(kind, *rest) for kind, rest in self.worst.items() if not rest[0] <= rest[1]]
        largest = max(self.worst.values(), key=lambda worst: worst[0] / worst[1])
        nearest = f"nearest to its tolerance {largest[2]}: {largest[0]:.1e} of {largest[1]:.0e}"
        print(f"{'FAIL' if failed else 'ok  '} {self.name}: {len(self.compared)} tensors, {nearest}")
        for kind, error, tolerance, key in failed:
            print(f"     {kind}: {error:.2e} > {tolerance:.0e} at {key}")
        return not failed


def load(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads a golden state, which names every parameter and statistic but α and the counters of batches."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith("alphas") and not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise SystemExit(f"names differ: missing {missing[:5]}, unexpected {unexpected[:5]}")


def set_alphas(model: nn.Module, golden: Golden) -> None:
    """Copies the file's α into a supernet; nothing where there is none."""
    with torch.no_grad():
        for name, alphas in golden.group("alphas").items():
            getattr(model, f"alphas{name}").copy_(alphas)


def gradients_by_name(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Gradients of all parameters."""
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()))))


def conv_network(golden: Golden, options: argparse.Namespace) -> networks.Network:
    """The network of a convolutional file, with its state."""
    meta, genotype = golden.meta, None
    if "genotype" in meta:
        genotype = networks.Genotype(**meta["genotype"])
    elif meta["primitives"] != list(networks.PRIMITIVES):
        raise SystemExit(f"{golden.name}: other primitives than the paper's")
    model = networks.Network(
        meta["init_channels"], meta["layers"], meta["classes"], genotype, auxiliary=meta.get("auxiliary", False)
    )
    load(model, golden.group("state/"))
    if options.layout == "channels-last":
        model = model.to(memory_format=torch.channels_last)
    if options.compile:
        for cell in model.cells:
            cell.compile()
    return model


def images(tensor: Tensor, options: argparse.Namespace) -> Tensor:
    """Images in the layout asked for."""
    return tensor.contiguous(memory_format=torch.channels_last) if options.layout == "channels-last" else tensor


def check_conv(golden: Golden, options: argparse.Namespace) -> None:
    """Supernet or discrete network: a training pass with gradients, and an evaluation pass."""
    model, meta = conv_network(golden, options), golden.meta
    search = "genotype" not in meta
    if search:
        set_alphas(model, golden)
    x, target = images(golden["input"], options), golden["target"]
    if not search:
        golden.compare("logits_eval", model.eval()(x)[0], 2e-5)
    masks = None
    if given := golden.group("mask/cells."):
        masks = [torch.ones(len(cell._ops), len(x)) for cell in model.cells]
        for name, mask in given.items():
            layer, position = map(int, name.split("."))
            masks[layer][position] = mask
    logits, auxiliary = model.train()(x, masks)
    smoothing = meta.get("label_smoothing", 0.0)
    cross_entropy = nn.CrossEntropyLoss(label_smoothing=smoothing)
    loss = cross_entropy(logits, target)
    if auxiliary is not None:
        loss = loss + meta["auxiliary_weight"] * cross_entropy(auxiliary, target)
        golden.compare("logits_aux", auxiliary, 2e-5)
    golden.compare("logits", logits, 2e-5)
    golden.compare("loss", loss, 2e-5)
    golden.compare_all("grad/", gradients_by_name(model, loss), 5e-5)
    golden.compare_all("state_after/", model.state_dict(), 2e-5)
    if search:
        golden.compare("logits_eval_after", model.eval()(x)[0], 2e-5)


def check_bilevel_conv(golden: Golden, options: argparse.Namespace) -> None:
    """Search steps of the convolutional supernet."""
    model, meta = conv_network(golden, options), golden.meta
    weights, alphas = bilevel.split(model)
    named = {name: p for name, p in model.named_parameters() if not name.startswith("alphas")}
    set_alphas(model, golden)
    sgd = torch.optim.SGD(weights, meta["lrs"][0], meta["momentum"], weight_decay=meta["weight_decay"])
    adam = torch.optim.Adam(alphas, meta["arch_lr"], meta["arch_betas"], weight_decay=meta["arch_weight_decay"])

    def loss(step: int, half: str):
        x, target = images(golden[f"step{step}/input_{half}"], options), golden[f"step{step}/target_{half}"]
        return lambda: nn.functional.cross_entropy(model(x)[0], target)

    for step, lr in enumerate(meta["lrs"]):
        at, train, valid = f"step{step}/", loss(step, "train"), loss(step, "valid")
        sgd.param_groups[0]["lr"] = lr
        if meta["order"] == 1:
            gradient = bilevel.first_order(model, valid)
        else:
            buffers = [sgd.state[w]["momentum_buffer"] for w in weights] if sgd.state else None
            virtual = Virtual(lr, meta["weight_decay"], meta["momentum"], buffers, radius=meta["hvp_r"])
            gradient = bilevel.second_order(model, train, valid, virtual)
        for name, grad in zip(("alphas_normal", "alphas_reduce"), gradient.gradients):
            golden.compare(f"{at}grad/{name}", grad, 5e-5 if meta["order"] == 1 else 2e-4)
        bilevel.alpha_step(adam, alphas, gradient)
        value, norm = bilevel.weight_step(sgd, model, train, meta["grad_clip"])
        golden.compare(f"{at}train_loss", value, 2e-5)
        golden.compare(f"{at}grad_norm", norm, 2e-5)
        golden.compare_all(f"{at}after/", dict(model.named_parameters()), 2e-5)
        golden.compare_all(f"{at}running/", model.state_dict(), 2e-5)
        buffers = {name: sgd.state[p]["momentum_buffer"] for name, p in named.items()}
        golden.compare_all(f"{at}momentum/", buffers, 5e-5)


def recurrent_model(golden: Golden, options: argparse.Namespace) -> recurrent.RecurrentModel:
    """The model of a recurrent file, with its state and α."""
    genotype = recurrent.Genotype(**golden.meta["genotype"]) if "genotype" in golden.meta else None
    model = recurrent.RecurrentModel(golden.meta["ntoken"], golden.meta["nhid"], genotype)
    load(model, golden.group("state/"))
    set_alphas(model, golden)
    if options.compile:
        model.rnns[0].compile()
    return model


def check_recurrent(golden: Golden, options: argparse.Namespace) -> None:
    """A training pass with gradients, and an evaluation pass, of a recurrent model."""
    model, meta = recurrent_model(golden, options), golden.meta
    tolerance = 5e-6 if "genotype" in meta else 1e-5
    given = golden.group("mask/")
    names = {"embedding_locked": "embedding", "output_locked": "output", "embedding_rows": "rows"}
    masks = recurrent.Masks(**{names.get(name, name): mask for name, mask in given.items()})
    tokens, target = golden["input"], golden["target"]
    output = model.eval()(tokens, golden["hidden"])
    golden.compare("log_prob_eval", output.logits.log_softmax(-1), tolerance)
    golden.compare("hidden_next_eval", output.hidden, tolerance)
    hidden = golden["hidden"].clone().requires_grad_()
    output = model.train()(tokens, hidden, masks)
    nll = output.nll(target)
    penalties = meta["activation_regularization"], meta["temporal_activation_regularization"]
    loss = nll + output.regularizer(*penalties)
    golden.compare("log_prob", output.logits.log_softmax(-1), tolerance)
    golden.compare("hidden_next", output.hidden, tolerance)
    golden.compare("nll", nll, tolerance)
    golden.compare("loss", loss, tolerance)
    (grad,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    golden.compare_all("grad/", gradients_by_name(model, loss) | {"hidden": grad}, tolerance)
    golden.compare_all("state_after/", model.state_dict(), tolerance)


def check_bilevel_recurrent(golden: Golden, options: argparse.Namespace) -> None:
    """Search steps of the recurrent supernet, hidden states carried on."""
    model, meta = recurrent_model(golden, options), golden.meta
    weights, alphas = bilevel.split(model)
    sgd = torch.optim.SGD(weights, meta["lr"], weight_decay=meta["weight_decay"])
    adam = torch.optim.Adam(
        alphas, meta["arch_lr"], meta["arch_betas"], meta["arch_eps"], weight_decay=meta["arch_weight_decay"]
    )
    virtual = Virtual(meta["lr"], meta["weight_decay"], clip=meta["grad_clip"], radius=meta["hvp_r"])
    carried: dict[str, Tensor] = {}

    def loss(step: int, half: str, temporal: float):
        names = (f"input_{half}", f"target_{half}", f"hidden_{half}_before")
        tokens, target, hidden = (golden[f"step{step}/{name}"] for name in names)

        def forward() -> Tensor:
            output = model(tokens, hidden)
            carried[half] = output.hidden.detach()
            nll = output.nll(target)
            carried[f"{half}_nll"] = nll.detach()
            return nll + output.regularizer(0.0, temporal) if temporal else nll

        return forward

    for step in range(meta["search_steps"]):
        at, valid, train = f"step{step}/", loss(step, "valid", 0.0), loss(step, "train", 0.0)
        if meta["order"] == 1:
            gradient = bilevel.first_order(model, valid)
        else:
            gradient = bilevel.second_order(model, train, valid, virtual)
            golden.compare(f"{at}valid_grad_norm", gradient.norm, 1e-5)
        golden.compare(f"{at}grad/alphas", gradient.gradients[0], 1e-5 if meta["order"] == 1 else 2e-4)
        golden.compare(f"{at}valid_nll", gradient.loss, 1e-5)
        golden.compare(f"{at}hidden_valid_after", carried["valid"], 1e-5)
        bilevel.alpha_step(adam, alphas, gradient)
        golden.compare(f"{at}alphas_after", alphas[0], 1e-5)
        temporal = meta["temporal_activation_regularization"]
        value, norm = bilevel.weight_step(sgd, model, loss(step, "train", temporal), meta["grad_clip"])
        golden.compare(f"{at}train_loss", value, 1e-5)
        golden.compare(f"{at}train_nll", carried["train_nll"], 1e-5)
        golden.compare(f"{at}grad_norm", norm, 1e-5)
        golden.compare(f"{at}hidden_train_after", carried["train"], 1e-5)
        golden.compare_all(f"{at}state_after/", model.state_dict(), 1e-5)


FAMILIES = {
    "conv_supernet": check_conv,
    "cifar_*": check_conv,
    "bilevel_conv_*": check_bilevel_conv,
    "rnn_*": check_recurrent,
    "bilevel_rnn_*": check_bilevel_recurrent,
}


def main() -> int:
    """Checks every file of every family; 1 when one fails or there is none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", choices=("default", "channels-last"), default="default")
    parser.add_argument("--compile", action="store_true", help="compile cells (minutes)")
    parser.add_argument("--only", default="", metavar="TEXT", help="files whose names contain TEXT")
    options = parser.parse_args()
    verdicts = []
    for pattern, check in FAMILIES.items():
        for path in sorted(FOLDER.glob(f"{pattern}.safetensors")):
            if options.only in path.stem:
                golden = Golden(path)
                check(golden, options)
                verdicts.append(golden.verdict())
    if not verdicts:
        print(f"no golden files in {FOLDER}", file=sys.stderr)
    return 0 if verdicts and all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
