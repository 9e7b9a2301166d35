"""What MNIST samples are worth, judged by a classifier that had no part in making them.

    D3PM_DATA=... python scripts/mnist_quality.py runs/mnist-guided --num 250 --judge judge.pt --output quality.json

The judge is a plain convolutional network trained here on clean digits (seed and layers of its own; kept in --judge).
For each way of sampling it says how many samples are of the class that was asked for, and how far their features lie
from those of the test set: a Fréchet distance in the judge's 64 features, **not** the FID of the literature. It falls
with the number of samples, so the same number of real digits is measured too: that is the least one can hope for.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from d3pm import DiffusionModel
from d3pm.data import ImageData
from d3pm.gaussian import DDIM, ClassifierGuidance
from d3pm.guidance import ClassifierFreeGuidance
from d3pm.sampling import Ancestral


class Judge(nn.Module):
    """Clean digits in [-1, 1] to 64 features, and those to ten logits."""

    num_features = 64

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.25), nn.Linear(32 * 49, 64), nn.ReLU()),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.float())

    def classes(self, x: Tensor) -> Tensor:
        return self.head(self(x)).argmax(-1)


def rows(data: ImageData, split: str) -> tuple[Tensor, Tensor]:
    items = data.split(split)
    batch = items.__getitems__(list(range(len(items))))
    return torch.stack([item["x0"] for item in batch]), torch.stack([item["labels"] for item in batch])


def trained_judge(data: ImageData, file: Path, epochs: int = 3) -> Judge:
    torch.manual_seed(12345)
    judge = Judge()
    if file.is_file():
        judge.load_state_dict(torch.load(file, weights_only=True))
        return judge.eval()
    x, y = rows(data, "train")
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(128):
            loss = F.cross_entropy(judge.head(judge(x[index])), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save(judge.state_dict(), file)
    return judge.eval()


@torch.no_grad()
def distance(judge: Judge, real: Tensor, found: Tensor) -> float:
    metric = FrechetInceptionDistance(feature=judge, input_img_size=(1, 28, 28))
    for batch in real.split(500):
        metric.update(batch, real=True)
    for batch in found.split(500):
        metric.update(batch, real=False)
    return float(metric.compute())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--num", type=int, default=250)
    parser.add_argument("--judge", type=Path, default=Path("judge.pt"))
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--classifier", help="run of a noisy classifier, to guide the model without its labels"
    )
    parser.add_argument("--only", nargs="*", help="names of ways, e.g. ddim-20 guided-2")
    options = parser.parse_args()
    data = ImageData(source="mnist", labels=True)
    with torch.enable_grad():
        judge = trained_judge(data, options.judge)
    real, answers = rows(data, "test")
    accuracy = float((judge.classes(real) == answers).float().mean())
    print(f"judge: {accuracy:.2%} of the test set right", flush=True)
    model = DiffusionModel.from_pretrained(options.run).eval()
    labels = torch.arange(options.num) % 10
    guided = {s: ClassifierFreeGuidance(model.network, s, {"labels": None}) for s in (2.0, 4.0)}
    ways = {
        "ddim-10": (None, {"steps": 10, "sampler": DDIM()}),
        "ddim-20": (None, {"steps": 20, "sampler": DDIM()}),
        "ddim-50": (None, {"steps": 50, "sampler": DDIM()}),
        "ancestral-20": (None, {"steps": 20, "sampler": Ancestral()}),
        "guided-2": (guided[2.0], {"steps": 20, "sampler": DDIM()}),
        "guided-4": (guided[4.0], {"steps": 20, "sampler": DDIM()}),
        "ancestral-1000": (None, {"steps": 1000, "sampler": Ancestral()}),
    }
    if options.classifier:
        classifier = DiffusionModel.from_pretrained(options.classifier).eval().network
        for scale in (2.0, 6.0):
            guide = ClassifierGuidance(model.process, model.network, classifier, scale)
            ways[f"classifier-{scale:g}"] = (guide, {"steps": 20, "sampler": DDIM()})
    spare, _ = rows(data, "validation")
    results = {"judge_accuracy": accuracy, "num": options.num}
    floor = distance(judge, real, spare[: options.num])
    print(f"{options.num} real digits of the validation set: distance {floor:.2f}", flush=True)
    results["real"] = {"distance": floor}
    for name, (network, how) in ways.items():
        if options.only and name not in options.only:
            continue
        started = time.perf_counter()
        x = model.sample(options.num, seed=0, batch_size=125, labels=labels, network=network, **how)
        found = {
            "distance": distance(judge, real, x.clamp(-1, 1)),
            "right": float((judge.classes(x.clamp(-1, 1)) == labels).float().mean()),
            "calls": how["steps"] * (2 if isinstance(network, ClassifierFreeGuidance) else 1),
            "seconds": time.perf_counter() - started,
        }
        results[name] = found
        print(
            f"{name}: {found['calls']} network calls a sample, distance {found['distance']:.2f}, "
            f"{found['right']:.1%} of the class asked for, {found['seconds']:.0f} s",
            flush=True,
        )
    if options.output:
        options.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
