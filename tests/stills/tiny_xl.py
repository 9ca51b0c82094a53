"""A tiny SDXL + two ControlNets + IP-Adapter stack with random weights: in memory, and as a mirror of files."""

import json

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DPMSolverMultistepScheduler,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from gapray.stills.sdxl.load import SCHEDULE
from tests.video.tiny import ip_state, vocabulary

SIDE, WIDTH = 64, 32
UNET = {
    "sample_size": SIDE // 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64),
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "transformer_layers_per_block": (1, 2),
    "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
    "cross_attention_dim": 2 * WIDTH,
}


def text_config():
    words = vocabulary()
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=WIDTH,
        bos_token_id=words["<|startoftext|>"],
        eos_token_id=words["<|endoftext|>"],
        pad_token_id=words["<|endoftext|>"],
    )


def modules(*, plus=True, seed=0):
    """Everything a `StableDiffusionXLControlNetPipeline` is made of, and an IP-Adapter's state in h94's layout."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**UNET).eval()
    nets = []
    for index in range(2):
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 16)).eval()
        generator = torch.Generator().manual_seed(index + 1)
        # Zero-initialized layers are drawn at random: otherwise a ControlNet would have no effect, and its test would test nothing.
        for layer in [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]:
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * 0.3
        nets.append(net)
    vae = AutoencoderKL(
        latent_channels=4,
        sample_size=SIDE,
        block_out_channels=(16,) * 4,
        norm_num_groups=8,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
    ).eval()
    vision = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    words = vocabulary()
    return {
        "vae": vae,
        "text_encoder": CLIPTextModel(text_config()).eval(),
        "text_encoder_2": CLIPTextModelWithProjection(text_config()).eval(),
        "tokenizer": CLIPTokenizer(vocab=words, merges=[], model_max_length=77),
        "tokenizer_2": CLIPTokenizer(vocab=words, merges=[], model_max_length=77, pad_token="!"),
        "unet": unet,
        "controlnet": nets,
        "image_encoder": CLIPVisionModelWithProjection(vision).eval(),
    }, ip_state(unet, plus)


def pipeline(*, plus=True, scale=0.6, seed=0):
    parts, state = modules(plus=plus, seed=seed)
    pipe = StableDiffusionXLControlNetPipeline(
        **parts,
        scheduler=DPMSolverMultistepScheduler(**SCHEDULE),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        add_watermarker=False,
    )
    if plus is not None:
        pipe.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None)
        pipe.set_ip_adapter_scale(scale)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write_mirror(root, *, plus=True, seed=0):
    """The tiny stack as files that cards name, for `GAPRAY_MODELS`."""
    parts, state = modules(plus=plus, seed=seed)
    base = root / "stable-diffusion-xl-1.0"
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        parts[name].save_pretrained(base / name)
    (base / "tokenizer").mkdir()
    (base / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary()))
    (base / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    for name, net in zip(("controlnet-depth-sdxl", "controlnet-canny-sdxl"), parts["controlnet"], strict=True):
        net.save_pretrained(root / name)
    name = "ip-adapter-plus-sdxl" if plus else "ip-adapter-sdxl"
    parts["image_encoder"].save_pretrained(root / name / "image_encoder")
    flat = {f"{group}.{key}": value.contiguous() for group, inner in state.items() for key, value in inner.items()}
    file = "ip-adapter-plus_sdxl_vit-h.safetensors" if plus else "ip-adapter_sdxl_vit-h.safetensors"
    save_file(flat, root / name / file)
    return root
