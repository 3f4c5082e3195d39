"""Features of real pictures, for `pilotwave evaluate`: the classifier's vector before its last layer.

    python3 features.py --classifier ../evaluation/fashion-mnist-judge.safetensors --data DIR \\
        --set fashion-mnist --count 2000 --out ../evaluation/fashion-mnist-features.safetensors

The file holds `features` F16 [N, F], `logits` F16 [N, K] and `labels` I32 [N], classes in turn, so that any run of whole
turns is balanced.
No picture can be made from them.
"""
import argparse
import json

import numpy as np
import torch

import safetensors
from data import LOADERS, load
from export import batched, evenly_by_class, load_model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", required=True, metavar="FILE")
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--set", required=True, choices=sorted(LOADERS))
    parser.add_argument("--split", default="test", choices=["train", "test"])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--out", required=True, metavar="FILE")
    args = parser.parse_args()
    model, config = load_model(args.classifier)
    if config["kind"] != "classifier":
        raise SystemExit(f"{args.classifier} is no classifier")
    x, y = evenly_by_class(load(args.set, args.data, args.split), args.count)
    features = batched(lambda a: model.features(a, torch.zeros(len(a))), x).numpy()
    logits = batched(lambda a: model(a, torch.zeros(len(a))), x).numpy()
    source = {"set": args.set, "split": args.split, "count": len(y), "classes": config["classes"]}
    safetensors.write(args.out, {"features": features.astype(np.float16), "logits": logits.astype(np.float16),
                                 "labels": y.numpy().astype(np.int32)},
                      {"source": json.dumps(source)})
    print(f"{features.shape[0]} pictures, {features.shape[1]} features, largest {np.abs(features).max():.3g}")


if __name__ == "__main__":
    main()
