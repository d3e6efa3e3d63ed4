"""The door: answers help, versions and typos at once, and imports nothing heavy before a command is known."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mapex_lightning import __version__

USAGE = """\
usage: mapex COMMAND [--config FILE] [--ckpt FILE] [--key value ...]

Mixture-of-experts vision transformers for multi-sensor satellite tiles, prunable to the sensors of a task.

commands:
  fit        pre-train or fine-tune
  validate   figures on the validation split
  test       figures on the test split
  predict    classes per tile as CSV, or class maps as GeoTIFF
  prune      keep the experts of some sensors and cut away all others
  info       what a checkpoint is, and what its experts do

  mapex COMMAND --help tells more;  mapex --version prints the version
"""

COMMON = """
  --config NAME   a YAML file, or the name of one that comes with mapex; later ones win
                  (pretrain.yaml, eurosat.yaml, bigearthnet.yaml, segment.yaml, real.yaml; sizes nano.yaml to
                  large.yaml; ddp.yaml)
  --run NAME      name of the run folder below runs/; by default the first config's
  --KEY VALUE     any setting, such as --trainer.max_epochs 3, --data.root /data or --model.optimiser.lr 1e-3
  --print_config  print all settings as YAML and stop
  --help-all      every setting there is
  --trust PKG     let configs name classes of the package PKG
"""

HELP = {
    "fit": f"""\
usage: mapex fit --config NAME [--config NAME ...] [--KEY VALUE ...]

Pre-trains (model: Pretrain) or fine-tunes (model: FineTune). Writes settings, logs, last.ckpt, best.ckpt and pictures
into a new run folder, whose path is printed first and last.

  --ckpt FILE     what to go on from: a checkpoint of the same kind is resumed with optimiser and all; FineTune takes
                  the encoder of a pre-trained or pruned one
{COMMON}
  mapex fit --config pretrain.yaml
  mapex fit --config pretrain.yaml --config ddp.yaml --trainer.devices 4
  mapex fit --config eurosat.yaml --ckpt pruned.ckpt --data.shots 10
""",
    "validate": f"""\
usage: mapex validate --config NAME [--ckpt FILE] [--KEY VALUE ...]

Prints the figures of a trained model on the validation split and writes them into its run folder.

  --ckpt FILE     the model; by default the best one of the newest run of this config
{COMMON}""",
    "test": f"""\
usage: mapex test --config NAME [--ckpt FILE] [--KEY VALUE ...]

Prints the figures of a trained model on the test split and writes them into its run folder.

  --ckpt FILE     the model; by default the best one of the newest run of this config
{COMMON}
  mapex test --config eurosat.yaml
""",
    "predict": f"""\
usage: mapex predict --config NAME [--ckpt FILE] [--KEY VALUE ...]

Writes predictions into the run folder: predictions.csv with the probability of every class, or for segmentation a
GeoTIFF per tile, placed where the tile lies.

  --ckpt FILE     the model; by default the best one of the newest run of this config
  --data.predict SPLIT   train, val or test
{COMMON}""",
    "prune": """\
usage: mapex prune --ckpt FILE --keep SENSOR[,SENSOR...] [RULE] [--out FILE] [--config TILES]

Writes the part of a model that some sensors need, as a checkpoint that stands alone, and a report beside it.

  --ckpt FILE       what to prune; a bare name such as last.ckpt is looked for here, then in the newest run
  --keep SENSORS    the sensors to keep, such as s1,s2

  Which experts stay? By default the sets that pre-training has sealed, which leaves the output unchanged, or
  --coverage 0.99 where it has not. Or one of these rules:
  --coverage SHARE  the fewest experts that carry this share of each sensor's mass
  --threshold SHARE every expert that carries this share of a sensor's mass or more
  --top N           the N best experts of each sensor in every mixture
  --size SIZE       as many as fit into this number of parameters, or this share of them, given up one after the other
  --score WORD      the mass: contribution (gate x output, the default), gate, frequency; activation ranks by the
                    contribution per token
  --fallback WORD   what becomes of a token whose expert is gone: next, the best one that stays (the default), or
                    merged, the one that its expert is averaged into

  --out FILE        by default pruned.ckpt beside the checkpoint
  --config TILES    first look again at who uses which expert, on the validation tiles of this config; further
                    --KEY VALUE settings are those of that config

  mapex prune --ckpt last.ckpt --keep s1,s2
  mapex prune --ckpt last.ckpt --keep s2 --size 0.4 --fallback merged
  mapex prune --ckpt last.ckpt --keep s2 --config eurosat.yaml --trainer.devices 2
""",
    "info": """\
usage: mapex info CKPT [--json] [--config TILES [--tiles N]] [--out FOLDER]

Prints what a checkpoint is: its sensors with bands, units and statistics, its experts, parameters, lineage, format and
versions, and from the census that it carries which sensor uses which expert. That needs no data.

  CKPT              a file; a bare name such as last.ckpt is looked for here, then in the newest run
  --json            the same for programs
  --config TILES    look at validation tiles of this config: how far experts belong to sensors, beside controls, and
                    what reconstruction suffers without them; further --KEY VALUE settings are those of that config
  --tiles N         how many tiles, spread over the split; 128 by default
  --out FOLDER      where info.html, info.json and the heat maps go; by default, where there are tiles, the folder
                    CKPT-info beside the checkpoint

  mapex info last.ckpt
  mapex info last.ckpt --config pretrain.yaml
""",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the words after ``mapex``; by default those of the process.

    Returns:
        The exit code: 0 for success, 2 for input that cannot be used.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except BrokenPipeError:  # mapex --help | head
        sys.stderr.close()
        return 0


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if words[0] in ("-V", "--version"):
        print(f"mapex {__version__}")
        return 0
    command, rest = words[0], words[1:]
    if command not in HELP:
        from mapex_lightning.errors import unknown

        return _refuse(unknown("command", command, HELP))
    if "-h" in rest or "--help" in rest:
        print(HELP[command], end="")
        return 0
    from mapex_lightning.errors import MapexError

    try:
        _dispatch(command, rest)
    except MapexError as error:
        return _refuse(error)
    return 0


def _dispatch(command: str, rest: list[str]) -> None:
    if command == "prune":
        from mapex_lightning.commands import prune

        prune.run(rest)
    elif command == "info":
        from mapex_lightning.commands import info

        info.run(rest)
    else:
        from mapex_lightning import cli

        cli.run(command, rest)


def _refuse(error: Exception) -> int:
    print(f"mapex: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
