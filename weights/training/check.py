"""Compares the models and losses here with values recorded from openai/guided-diffusion, in float64.

    python3 check.py GOLDEN_FOLDER

Also that a run can start from an exported file, and only from one of its own kind; and compare.py's distances.

The folder holds manifest.json, models/ and cases/ as its README describes. Every case of kind unet, superres,
classifier, training_loss and adamw is run, and the trajectories of plain DDIM: outputs, block results, input gradients,
parameter gradients, updates and every step's results.
The recorded values were computed in float64 too, so the tolerance is not the manifest's, which is for float32: what is
stored in float64 may differ by another order of summation, the rest by the rounding of its storage.
"""
import json
import os
import re
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

import adm
import compare as comparison
import safetensors
import train
from diffusion import Diffusion

# Relative L2, by the type a value is stored in. Rounding to float32 costs at most 6e-8 of each element.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 6e-8}
CLASSES = {"UNetModel": adm.UNet, "SuperResModel": adm.SuperRes, "EncoderUNetModel": adm.Classifier}


class Golden:
    def __init__(self, folder):
        self.folder = folder
        with open(os.path.join(folder, "manifest.json")) as file:
            self.manifest = json.load(file)

    def tensors(self, case):
        values, _ = safetensors.read(os.path.join(self.folder, case["file"]))
        return {name: torch.from_numpy(np.array(v)) for name, v in values.items()}

    def model(self, name):
        entry = self.manifest["models"][name]
        model = CLASSES[entry["class_name"]](**entry["config"]).double().eval()
        weights, _ = safetensors.read(os.path.join(self.folder, entry["file"]))
        wanted = list(model.state_dict())
        if sorted(wanted) != sorted(weights):
            raise SystemExit(f"{name}: parameter names differ: {sorted(set(wanted) ^ set(weights))[:6]}")
        model.load_state_dict({k: torch.from_numpy(v.astype(np.float64)) for k, v in weights.items()})
        return model


def traced(model):
    """A dictionary that a forward pass of the model fills with what each block made of its input."""
    found = {}
    for name, module in model.named_modules():
        if name in ("time_embed", "middle_block") or re.fullmatch(r"(input|output)_blocks\.\d+", name):
            module.register_forward_hook(lambda _m, _i, y, name=name: found.__setitem__(f"trace.{name}", y.detach()))
    return found


def run_unet(golden, case, given):
    model = golden.model(case["config"]["model"])
    x = given["x"].double().requires_grad_()
    labels = given["y"].long() if "y" in given else None
    extra = {"low_res": given["low_res"].double()} if "low_res" in given else {}
    found = traced(model)
    found["out"] = out = model(x, given["t"].double(), labels, **extra)
    if "upstream" in given:
        (found["grad_x"],) = torch.autograd.grad(out, x, given["upstream"].double())
    return found


def run_classifier(golden, case, given):
    model = golden.model(case["config"]["model"])
    x = given["x"].double().requires_grad_()
    labels, t = given["y"].long(), given["t"].double()
    found = traced(model)
    logits = model(x, t)
    selected = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    found.update(logits=logits, selected=selected)
    (found["grad_x"],) = torch.autograd.grad(selected.sum(), x, retain_graph=True)
    loss = F.cross_entropy(logits, labels)
    found["cross_entropy"] = loss[None]
    loss.backward()
    found.update({f"grad.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None})
    return found


def run_loss(golden, case, given):
    options = case["config"]["diffusion"]
    model = golden.model(case["config"]["model"])
    spacing = options["timestep_respacing"]
    diffusion = Diffusion(options["steps"], options["noise_schedule"], options["var_type"],
                          options.get("mean_type", "epsilon"), options.get("loss_type", "mse"),
                          options.get("rescale_timesteps", False), spacing or None)
    labels = given["y"].long() if "y" in given else None
    terms = diffusion.losses(model, given["x_start"].double(), given["t"].long(), given["noise"].double(), labels)
    terms["loss"].mean().backward()
    parameters = dict(model.named_parameters())
    if list(parameters) != case["parameter_order"]:
        raise SystemExit(f"{case['id']}: the order of the parameters is not the original's")
    found = dict(terms)
    found["grad_norms"] = torch.stack([parameters[name].grad.norm() for name in case["parameter_order"]])
    found.update({f"grad.{name}": p.grad for name, p in parameters.items()})
    return found


@torch.no_grad()
def run_ddim(golden, case, given):
    options = case["config"]["diffusion"]
    model = golden.model(case["config"]["model"])
    diffusion = Diffusion(options["steps"], options["noise_schedule"], options["var_type"],
                          spacing=options["timestep_respacing"])
    labels = given["y"].long() if "y" in given else None
    steps = list(diffusion.ddim(model, given["x_T"].double(), labels))
    found = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
    found["t_model"] = torch.from_numpy(diffusion.timestep_map[::-1].astype(np.float64))
    return found


def is_plain_ddim(case):
    """Of the samplers only DDIM without noise, guidance and rescaled timesteps is here."""
    config = case["config"]
    return (config["sampler"] == "ddim" and not config.get("eta") and "classifier" not in config
            and "cfg_scale" not in config and "mean_type" not in config["diffusion"]
            and not config["diffusion"].get("rescale_timesteps"))


def run_adamw(golden, case, given):
    config = case["config"]
    model = golden.model(config["model"])
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"], weight_decay=config["weight_decay"],
                                  betas=tuple(config["betas"]), eps=config["eps"])
    found, losses = {}, []
    for step in range(1, config["steps"] + 1):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(given["x"].double(), given["t"].double()), given["y"].long())
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if step in config["stored_steps"]:
            found.update({f"step{step}.{name}": p.detach() - start[name] for name, p in model.named_parameters()})
    found["loss"] = torch.stack(losses)
    return found


RUNNERS = {"unet": run_unet, "superres": run_unet, "classifier": run_classifier, "training_loss": run_loss,
           "adamw": run_adamw, "trajectory": run_ddim}


def compare(case, recorded, found):
    """-> (number of tensors, worst relative error, its name, complaints)"""
    zeros = {name for group in case.get("groups", {}).values() for name in group["zero_in_exact_arithmetic"]}
    zeros |= {name for name, v in case["outputs"].items() if v.get("zero_in_exact_arithmetic")}
    norms = {prefix: group["norm"] for prefix, group in case.get("groups", {}).items()}
    worst, where, complaints = 0.0, "-", []
    for name in case["outputs"]:
        if name not in found:
            complaints.append(f"{name} was not computed")
            continue
        ours, theirs = found[name].detach().double(), recorded[name].double()
        if ours.shape != theirs.shape:
            complaints.append(f"{name}: shape {tuple(ours.shape)}, recorded {tuple(theirs.shape)}")
            continue
        difference = (ours - theirs).norm().item()
        prefix = next((p for p in norms if name.startswith(p)), None)
        # A gradient that is zero but for rounding has no size of its own: its family's is taken.
        size = norms[prefix] if prefix and name in zeros else 1.0 if name in zeros else theirs.norm().item()
        error = difference / max(size, 1e-300)
        if error > worst:
            worst, where = error, name
        tolerance = TOLERANCE[recorded[name].dtype]
        if not error <= tolerance:
            complaints.append(f"{name}: relative error {error:.1e}, allowed {tolerance:.0e}")
    return len(case["outputs"]), worst, where, complaints


def check_start():
    """--init: the weights of an exported file, its count of pictures, an average that begins settled. -> complaints"""
    data = SimpleNamespace(images=torch.zeros(1, 1, 8, 8), classes=["a", "b"])

    def configured(*options):
        return train.configuration(train.arguments(
            "diffusion --data x --set fashion-mnist --run x --minutes 1 --channels 32 --mult 1,1 --blocks 1 "
            "--attention 4 --head-channels 32".split() + list(options)), data)

    config, complaints = configured(), []
    model = adm.UNet(**config["model"])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "some.safetensors")
        # As other programs write it: what is said by no shape may be left out or spelt out.
        described = dict(config, images_seen=640, model=dict(config["model"], num_heads=1))
        safetensors.write(path, {name: p.detach().numpy() for name, p in model.named_parameters()},
                          {"config": json.dumps(described)})
        weights, origin = train.exported_weights(path, configured("--dropout", "0.1"))
        other = adm.UNet(**config["model"])
        other.load_state_dict(weights)
        if any(not torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters())):
            complaints.append("the weights read are not those written")
        if origin != {"file": "some.safetensors", "images_seen": 640}:
            complaints.append(f"the origin is {origin}")
        for options, name in ((["--attention", "8"], "attention_resolutions"), (["--schedule", "cosine"], "diffusion"),
                              (["--head-channels", "16"], "num_head_channels")):
            try:
                train.exported_weights(path, configured(*options))
                complaints.append(f"{' '.join(options)} was not refused")
            except SystemExit as refusal:
                if f"has {name} " not in str(refusal):
                    complaints.append(f"{' '.join(options)} was refused with: {refusal}")
    name, before = next((n, p.detach().clone()) for n, p in model.named_parameters())
    for settled, share in ((True, 0.1), (False, 0.9)):
        average = train.Average(model, 0.9, settled)
        with torch.no_grad():
            dict(model.named_parameters())[name].add_(1)
        average.update(model, 0)
        moved = (average.values[name] - before).mean().item()
        before = before + 1
        if abs(moved - share) > 1e-5:
            complaints.append(f"an average {'that is settled' if settled else 'at its start'} moved by {moved}")
    return complaints


def check_distances():
    """What compare.py measures, where it is known otherwise. -> complaints"""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 3)), generator.normal(size=(30, 3)) + 0.5
    factor, shift = 1.5, np.array([1.0, -2.0, 0.5])
    moved = ((factor - 1) * x.mean(0) + shift) @ ((factor - 1) * x.mean(0) + shift)
    frechet = moved + (factor - 1) ** 2 * np.trace(np.cov(x.T))

    def k(p, q):
        return (p @ q / 3 + 1) ** 3

    def within(z):
        return np.mean([k(p, q) for i, p in enumerate(z) for j, q in enumerate(z) if i != j])

    kernel = within(x) + within(y) - 2 * np.mean([k(p, q) for p in x for q in y])
    # On a line at 0, 1, 2, 3 and 10 the third neighbour is 3, 2, 2, 3 and 9 away; 20 and -3.5 are in no ball.
    line = np.array([[0.0], [1], [2], [3], [10]])
    coverage = comparison.coverage(np.array([[-2.5], [20], [-3.5], [6], [18]]), line)
    found = {"Fréchet distance": (comparison.frechet(x, factor * x + shift), frechet),
             "kernel distance": (comparison.kernel(x, y), kernel), "coverage": (coverage, 3 / 5)}
    real, sets = y, (x, x + 0.1)
    names = generator.random(40) < 0.5
    rows = {name: rest for name, *rest in comparison.sampled_rows((sets[0], names), (sets[1], ~names), real)}
    first, second, error = rows["agreement"]
    gains = np.array([(~part).mean() - part.mean() for part in names.reshape(10, 4)])
    found["agreement's difference"] = (second - first, gains.mean())
    found["its error"] = (error, gains.std(ddof=1) / 10 ** 0.5)
    return [f"{name} is {ours}, should be {theirs}" for name, (ours, theirs) in found.items()
            if not abs(ours - theirs) <= 1e-9 * max(1, abs(theirs))]


def main():
    if len(sys.argv) != 2:
        raise SystemExit("usage: python3 check.py GOLDEN_FOLDER")
    golden = Golden(sys.argv[1])
    cases = [case for case in golden.manifest["cases"] if case["kind"] in RUNNERS
             and (case["kind"] != "trajectory" or is_plain_ddim(case))]
    if not cases:
        raise SystemExit(f"{sys.argv[1]} holds no case of kind {', '.join(RUNNERS)}")
    failed = 0
    for case in cases:
        given = golden.tensors(case)
        count, worst, where, complaints = compare(case, given, RUNNERS[case["kind"]](golden, case, given))
        failed += bool(complaints)
        print(f"{'FAIL' if complaints else 'ok  '} {case['id']:32} {count:4} tensors, worst {worst:.1e} ({where})")
        for complaint in complaints[:5]:
            print(f"       {complaint}")
    print(f"{len(cases) - failed} of {len(cases)} cases agree (PyTorch {torch.__version__}, float64)")
    for name, check in (("starting from an exported file", check_start), ("distances of compare.py", check_distances)):
        complaints = check()
        failed += bool(complaints)
        print("\n".join([f"{'FAIL' if complaints else 'ok  '} {name}", *(f"       {c}" for c in complaints)]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
