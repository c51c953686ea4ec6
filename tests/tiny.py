"""Settings of miniatures with random weights, for tests that need models of the right kind and not their answers."""

MODELS = dict(
    pretrained=False,
    diffusion="tiny:diffusion",
    sam="tiny:sam",
    dino="tiny:dino",
    clip="tiny:clip",
    mae="tiny:mae",
    maskformer="tiny:maskformer",
    efficientnet="tiny:efficientnet",
    groupvit="tiny:groupvit",
    trident_dino="tiny:vit",
)
